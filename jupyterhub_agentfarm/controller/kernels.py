"""Which kernels each node's servers have: asked when a node is reached, and again every `Farm.kernels_interval`.

The node's own `server_python` says it, over SSH, so it is right after an upgrade of that environment and needs nothing
of noded. It is asked beside everything else: a node takes servers before it has answered, but for requests that name a
kernel. What a node said once counts until it says otherwise.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import AgentFarmError, InvalidField, NotFoundError, TransportError
from ..logs import LogLine
from ..models import Kernel
from ..records import from_json
from ..tasks import OwnedTasks
from .launching import kernels_command

if TYPE_CHECKING:
    from .farm import Farm

log = logging.getLogger(__name__)

#: Starting Python on a busy node and reading its kernelspecs, in seconds.
ANSWER_SECONDS = 20.0
#: Time until a node that could not tell is asked again, in seconds.
AGAIN_SECONDS = 30.0
#: Nodes that are asked at a time.
MAX_ASKED = 16


class NodeKernels:
    """Keeps the kernels in the nodes' records up to date.

    Parameters
    ----------
    farm
        Whose nodes they are.
    tasks
        Owns what is under way.
    """

    def __init__(self, farm: Farm, tasks: OwnedTasks) -> None:
        self._farm = farm
        self._tasks = tasks
        self._asking = asyncio.Semaphore(MAX_ASKED)
        #: When each node is asked again.
        self._due: dict[str, float] = {}

    def forget(self, name: str) -> None:
        """Ask a node as soon as it is ready, because it was reached anew or is gone."""
        self._due.pop(name, None)

    def refresh(self, now: float) -> None:
        """Begin to ask the nodes that are ready and whose time it is."""
        for node in self._farm.inventory.all_nodes():
            if node.state == "ready" and now >= self._due.get(node.name, 0):
                self._due[node.name] = now + float(self._farm.kernels_interval)
                self._tasks.start_single(self._ask(node.name, now), f"asking {node.name} for its kernels")

    async def _ask(self, name: str, now: float) -> None:
        inventory = self._farm.inventory
        with suppress(NotFoundError):  # it was removed meanwhile
            try:
                async with self._asking:
                    inventory.note_kernels(name, await kernels_of(self._farm, name))
            except AgentFarmError as exc:
                self._due[name] = now + AGAIN_SECONDS
                self._failed(name, exc.message.removeprefix(f"node {name}: "))

    def _failed(self, name: str, error: str) -> None:
        node = self._farm.inventory.node(name)
        if error != node.kernels_error:
            log.warning(LogLine("could not tell its kernels", node=name, detail=error))
        self._farm.inventory.note_kernels(name, node.kernels, error)


async def kernels_of(farm: Farm, name: str) -> tuple[Kernel, ...]:
    """Return the kernels that servers of a node have, as the node says now.

    Raises
    ------
    NotFoundError
        There is no such node.
    RemoteCommandFailed
        Its environment of servers lacks jupyterhub-agentfarm, or there is no such Python.
    TransportError
        The node could not be asked, or answered something else.
    """
    node = farm.inventory.node(name).spec
    command = kernels_command(node, farm.inventory.isolation_of(node))
    done = await farm.inventory.link(name).run(command, ANSWER_SECONDS)
    try:
        answer: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return tuple(from_json(Kernel, each, "kernel") for each in answer)
    except (ValueError, IndexError, TypeError, InvalidField) as exc:
        shown = f"`{' '.join(command)}` printed {done.stdout[-200:]!r}"
        raise TransportError(name, f"{shown}, which is no list of kernels") from exc
