"""The named servers that a run starts, one per node, pinned to it.

They belong to the Hub user `benchmark` and are called ``bench-NODE``. They are started, stopped and forgotten through
the Hub's API, like anybody's: so quotas, leases and the culler see them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from traitlets import Unicode, default
from traitlets.config import LoggingConfigurable

from ..controller.farm_watch import FarmWatch
from ..errors import HubApiError, ServerDied
from ..services.hub import HubClient
from ..traitlets import Seconds

#: Is given what a server waits for; "" is nothing in particular.
Told = Callable[[str], None]


def server_name(node: str) -> str:
    """Return the name of the benchmark's server on `node`."""
    return f"bench-{node}"


class NodeServers(LoggingConfigurable):
    """Starts and stops the benchmark's servers.

    Parameters
    ----------
    hub
        The Hub's API.
    farm
        Knows why a server waits.
    """

    hub_user = Unicode("benchmark", help="Hub user that the servers of benchmark runs belong to.").tag(config=True)
    proxy_url = Unicode(
        help="Address of the Hub's proxy, as in http://127.0.0.1:8000. Default: $AGENTFARM_PROXY_URL or that example."
    ).tag(config=True)
    start_timeout = Seconds(
        300,
        help="How long a server may take to be ready, in seconds, the wait for a GPU included. Smaller: a run with a "
        "busy node begins sooner, without that node; larger: it waits longer for a GPU that somebody holds.",
    ).tag(config=True)
    stop_timeout = Seconds(
        60,
        help="How long a server may take to end, in seconds. After that the run ends without it, and the next run or "
        "the next start of the service stops it.",
    ).tag(config=True)
    poll_interval = Seconds(
        0.5,
        help="Pause between two questions to the Hub whether a server is ready, in seconds. Smaller: a run begins a "
        "little sooner; larger: less work for the Hub.",
    ).tag(config=True)

    @default("proxy_url")
    def _proxy_url_default(self) -> str:
        return os.environ.get("AGENTFARM_PROXY_URL") or "http://127.0.0.1:8000"

    def __init__(self, hub: HubClient, farm: FarmWatch, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._hub = hub
        self._farm = farm

    async def start(self, node: str, gpus: int, told: Told) -> str:
        """Return the URL of the server on `node`, with a slash at the end, once it is ready.

        One that is there is taken, and one that is being started is waited for.

        Parameters
        ----------
        gpus
            GPUs that it asks for.
        told
            Is given what it waits for, whenever that changes.

        Raises
        ------
        ServerDied
            It did not become ready in time, or its start failed.
        HubApiError
            The Hub refused, or did not answer.
        """
        name = server_name(node)
        deadline, asked = time.monotonic() + self.start_timeout, False
        while True:
            model = await self._hub.server(self.hub_user, name)
            if model is not None and _ready(model):
                return self.proxy_url.rstrip("/") + str(model["url"])
            why = self._farm.waiting_for(self.hub_user, name)
            if not _pending(model):
                if asked:
                    raise ServerDied(f"the server {name} could not be started: {await self._failure(name)}")
                await self._hub.start_server(self.hub_user, name, {"node": node, "gpus": gpus})
                asked = True
            elif time.monotonic() > deadline:
                reason = why or "see the log of the Hub"
                raise ServerDied(f"the server {name} was not ready within {self.start_timeout:g} s: {reason}")
            told(why)
            await asyncio.sleep(self.poll_interval)

    async def runs(self, node: str) -> bool | None:
        """Return whether the server on `node` runs; None where the Hub does not say.

        It says so of a server that is being started too.
        """
        try:
            model = await self._hub.server(self.hub_user, server_name(node))
        except HubApiError:
            return None
        return _ready(model) or _pending(model)

    async def of_benchmark(self) -> list[str]:
        """Return the nodes that have a server of the benchmark's.

        Raises
        ------
        HubApiError
            The Hub did not answer.
        """
        names = (await self._hub.user(self.hub_user))["servers"]
        prefix = server_name("")
        return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    def gpus_of(self, node: str) -> tuple[str, ...]:
        """Return the UUIDs of the GPUs that the server on `node` holds, as far as the controller told."""
        wanted = (self.hub_user, server_name(node))
        for lease in self._farm.leases.values():
            if (lease["owner"], lease["server_name"]) == wanted and lease["state"] in ("granted", "running"):
                return tuple(lease["gpus"])
        return ()

    async def _failure(self, name: str) -> str:
        return await self._hub.start_failure(self.hub_user, name) or "see the log of the Hub"

    async def stop(self, node: str) -> None:
        """Stop the server on `node`, if there is one, and forget it; return when it is gone.

        Raises
        ------
        ServerDied
            It is still there after `stop_timeout`.
        HubApiError
            The Hub refused.
        """
        name = server_name(node)
        deadline = time.monotonic() + self.stop_timeout
        while (model := await self._hub.server(self.hub_user, name)) is not None:
            if model["pending"] != "stop":
                await self._hub.stop_server(self.hub_user, name, remove=True)
            if time.monotonic() > deadline:
                raise ServerDied(f"the server {name} did not end within {self.stop_timeout:g} s: stop it in the Hub")
            await asyncio.sleep(min(self.poll_interval, 0.2))

    async def stop_all(self, nodes: list[str]) -> list[str]:
        """Stop the servers on `nodes`, all at once; return a sentence for each that could not be stopped."""
        answers = await asyncio.gather(*(self._stop_quietly(node) for node in nodes))
        return [answer for answer in answers if answer]

    async def _stop_quietly(self, node: str) -> str:
        try:
            async with asyncio.timeout(self.stop_timeout + 5):
                await self.stop(node)
        except (HubApiError, ServerDied) as exc:
            return exc.message
        except TimeoutError:
            return f"the Hub did not answer when the server {server_name(node)} was to be stopped"
        return ""


def _ready(model: Mapping[str, Any] | None) -> bool:
    return bool(model is not None and model["ready"] and not model["pending"])


def _pending(model: Mapping[str, Any] | None) -> bool:
    return bool(model is not None and model["pending"])
