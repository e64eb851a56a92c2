"""``agentfarm nodes cordon | uncordon | drain | restart-noded | remove``: what an admin decides about a node."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Unicode

from ..terminal.progress import bars
from ..traitlets import Seconds
from .command import Command

if TYPE_CHECKING:
    from ..controller.client import FarmClient

_POLL_SECONDS = 0.5


class _NodeCommand(Command):
    """A command about one node that ends with a sentence, or with the node as JSON."""

    positionals = ("NAME",)

    @property
    def node(self) -> str:
        """Name of the node."""
        return str(self.extra_args[0])

    def finish(self, view: Any, sentence: str) -> None:
        """Write the result."""
        if self.json:
            self.output.json(view)
        else:
            self.output.line(sentence)


class Cordon(_NodeCommand):
    """Place no new servers on a node."""

    command = "agentfarm nodes cordon"
    description = "Place no new servers on a node; those that run there stay."
    reason = Unicode("cordoned from the command line", help="Why, for the others who look after the farm.").tag(
        config=True
    )
    aliases = {**Command.aliases, "reason": "Cordon.reason"}

    async def run(self) -> None:
        """Cordon the node."""
        async with self.farm() as farm:
            view = await farm.cordon(self.node, self.reason)
        self.finish(view, f"{self.node} is cordoned: it takes no new servers.")


class Uncordon(_NodeCommand):
    """Take back a cordon or a drain."""

    command = "agentfarm nodes uncordon"
    description = "Take back a cordon or a drain."

    async def run(self) -> None:
        """Uncordon the node."""
        async with self.farm() as farm:
            view = await farm.uncordon(self.node)
        self.finish(view, f"{self.node} is {view['status']}.")


class Drain(_NodeCommand):
    """Cordon a node and empty it."""

    command = "agentfarm nodes drain"
    description = "Place no new servers on a node and wait for those there to end; after the deadline they are stopped."
    reason = Unicode("drained from the command line", help="Why, for the others who look after the farm.").tag(
        config=True
    )
    deadline = Seconds(
        None,
        allow_none=True,
        help="After this long, as in 15m, servers that are still there are stopped. Default: they are waited for.",
    ).tag(config=True)
    wait = Bool(False, help="End when the node is empty.").tag(config=True)
    aliases = {**Command.aliases, "reason": "Drain.reason", "deadline": "Drain.deadline"}
    flags = {**Command.flags, "wait": ({"Drain": {"wait": True}}, "End when the node is empty.")}

    async def run(self) -> None:
        """Drain the node, and wait when asked to."""
        async with self.farm() as farm:
            view = await farm.drain(self.node, self.reason, self.deadline)
            if self.wait:
                await self._empty(farm)
                view = await farm.node(self.node)
        self.finish(view, f"{self.node} is {'drained: it is empty' if self.wait else 'draining'}.")

    async def _empty(self, farm: FarmClient) -> None:
        """Return when no lease of the node is left."""
        most = 0
        with bars(self.output) as progress:
            while True:
                left = sum(lease.node == self.node for lease in await farm.leases(all=False))
                most = max(most, left)
                progress.show(f"draining {self.node}", most - left, most, f"{left} servers left")
                if left == 0:
                    return
                await asyncio.sleep(_POLL_SECONDS)


class RestartNoded(_NodeCommand):
    """Start a node's noded anew."""

    command = "agentfarm nodes restart-noded"
    description = (
        "End a node's noded and start it anew: after an upgrade of jupyterhub-agentfarm there, after a change of "
        "noded_args, or when it hangs. Servers go on."
    )

    async def run(self) -> None:
        """Restart it and write which version runs now."""
        async with self.farm() as farm:
            view = await farm.restart_noded(self.node)
        version = (view["facts"] or {}).get("version", "unknown")
        now = f"version {version}" if view["state"] == "ready" else f"the node is {view['state']}: {view['detail']}"
        self.finish(view, f"noded on {self.node} was started anew ({now}); servers went on.")


class RemoveNode(_NodeCommand):
    """Forget a node."""

    command = "agentfarm nodes remove"
    description = "Forget a node that was added with `agentfarm nodes add`; it must hold no leases (drain it first)."

    async def run(self) -> None:
        """Remove the node."""
        async with self.farm() as farm:
            await farm.remove_node(self.node)
        self.finish({"removed": self.node, "at": time.time()}, f"{self.node} is removed.")
