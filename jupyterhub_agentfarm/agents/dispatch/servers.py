"""The servers that tasks run in: named servers of their agents, started and stopped through the Hub.

::

    ask the Hub ──▶ pending: it waits in the controller's line, or boots ──▶ ready
                       └──▶ it failed: refused, quota, or start_failed

Every step may be done again: a server that is asked for twice is one server, and one that is gone is stopped. The Hub
may be away for a while, as when it restarts; it is asked again.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from traitlets import Float, Unicode, default
from traitlets.config import LoggingConfigurable

from ...errors import AgentFarmError, HubApiError
from ...models import MOST_AVOIDED, UserOptions
from ...records import to_json
from ...services.hub import HubClient
from ...tasks import OwnedTasks
from ...traitlets import Seconds
from ..models import TaskReason

T = TypeVar("T")
#: Names of servers that are ours; nobody else is to have one of such a name.
TASK_SERVER = re.compile(r"task-[0-9a-f]{8}-[0-9]+")
#: Answers to questions that come from a Hub that is away, or not up yet.
_LATER = frozenset({0, 429, 500, 502, 503, 504})
#: Starts that the Hub forgot, as when it was killed, are made again so often.
_MOST_STARTS = 5
_LONGEST_PAUSE_SECONDS = 30.0
#: The Hub tells of a failure at once; of a start that goes on it tells until that is done.
_FAILURE_SECONDS = 10.0


class StartFailed(AgentFarmError):
    """A task's server did not start."""

    reason = "start_failed"

    def __init__(self, outcome: TaskReason, message: str) -> None:
        self.outcome = outcome
        super().__init__(message)


class TaskServers(LoggingConfigurable):
    """Starts and stops the servers of tasks.

    Parameters
    ----------
    hub
        The Hub's API.
    """

    proxy_url = Unicode(
        help="Address of the Hub's proxy, as in http://127.0.0.1:8000. Default: $AGENTFARM_PROXY_URL or that example."
    ).tag(config=True)
    cpus = Float(
        1.0,
        min=0,
        help="Cores that must be free on a node for a task that does not say what it needs. Larger leaves more of a "
        "node to what runs there; smaller lets more tasks run at a time; 0 lets tasks onto nodes whose cores are all "
        "busy.",
    ).tag(config=True)
    start_timeout = Seconds(
        25 * 3600,
        help="How long a task's server may take to be ready, in seconds or as '25h', the wait in the controller's line "
        "included. The spawner's own limits (`queue_timeout`, `boot_timeout`) are to come first, and say why.",
    ).tag(config=True)
    stop_timeout = Seconds(
        90, help="How long a server may take to end, in seconds, before that is logged and it is asked to end anew."
    ).tag(config=True)
    poll_interval = Seconds(
        0.5,
        help="Pause between two questions to the Hub whether a server is ready, in seconds. Smaller: tasks begin a "
        "little sooner; larger: less work for the Hub.",
    ).tag(config=True)

    @default("proxy_url")
    def _proxy_url_default(self) -> str:
        return os.environ.get("AGENTFARM_PROXY_URL") or "http://127.0.0.1:8000"

    def __init__(self, hub: HubClient, **options: Any) -> None:
        super().__init__(**options)
        self._hub = hub
        self._owned = OwnedTasks(self.log)

    async def aclose(self) -> None:
        """Leave what is under way to the next service; a second call does nothing."""
        await self._owned.aclose()

    # ---- what is asked of it ----

    def options(self, asked: UserOptions, kernel: str, avoid: tuple[str, ...] = ()) -> UserOptions:
        """Return the options of the server for a task.

        Parameters
        ----------
        asked
            What the task asks for.
        kernel
            Kernel that its notebook names; "" where that is not known.
        avoid
            Nodes on which the task has failed, the newest last.
        """
        avoided = tuple(dict.fromkeys((*reversed(avoid), *asked.avoid)))[:MOST_AVOIDED]
        return replace(asked, kernel=asked.kernel or kernel, cpus=asked.cpus or self.cpus, avoid=avoided)

    def url(self, agent: str, name: str) -> str:
        """Return where the proxy has the server, with a slash at the end."""
        base = os.environ.get("JUPYTERHUB_BASE_URL", "/")
        return f"{self.proxy_url.rstrip('/')}{base}user/{quote(agent, safe='@~')}/{quote(name, safe='@~')}/"

    async def start(self, agent: str, name: str, options: UserOptions) -> None:
        """Return when the server is ready; one that is there already is taken as it is.

        Raises
        ------
        StartFailed
            It did not become ready.
        """
        deadline = time.monotonic() + self.start_timeout
        asked = 0
        while True:
            model = await self._patiently(lambda: self.model(agent, name), deadline)
            if model is not None and model["ready"]:
                return
            if model is None or not model["pending"]:
                if asked:
                    await self._check_failure(agent, name)
                if asked >= _MOST_STARTS:
                    raise StartFailed("start_failed", f"the Hub forgot the server {name} {asked} times")
                asked += await self._ask(agent, name, options)
            if time.monotonic() > deadline:
                raise StartFailed("start_failed", f"the server was not ready within {self.start_timeout:g} s")
            await asyncio.sleep(self.poll_interval)

    async def model(self, agent: str, name: str) -> dict[str, Any] | None:
        """Return the Hub's model of a server, or None when it has none of that name.

        Raises
        ------
        HubApiError
            The Hub does not answer.
        """
        try:
            return await self._hub.server(agent, name)
        except HubApiError as exc:
            if exc.status == 404:  # the user was deleted
                return None
            raise

    def stop(self, agent: str, name: str) -> None:
        """Have the server end and its name forgotten; goes on until that is done, and is not waited for."""
        self._owned.start_single(self._stop(agent, name), f"stopping {agent}/{name}")

    def stop_leftovers(self, agents: Iterable[str], is_used: Callable[[str, str], bool]) -> None:
        """Stop the tasks' servers of these agents that are not used: what a killed service left."""
        self._owned.start_single(self._stop_leftovers(list(agents), is_used), "stopping what an earlier service left")

    # ---- starting ----

    async def _ask(self, agent: str, name: str, options: UserOptions) -> int:
        """Ask the Hub for the server; return 1 when it took that, and 0 when it is to be asked again."""
        try:
            await self._hub.start_server(agent, name, compact(options))
        except HubApiError as exc:
            if _is_asked_again(exc.status, exc.message):
                return 0
            raise StartFailed(_outcome(exc.status, exc.message), exc.message) from exc
        return 1

    async def _check_failure(self, agent: str, name: str) -> None:
        """Raise why the Hub did not start the server; return when it knows nothing of that, as after its restart."""
        try:
            async with asyncio.timeout(_FAILURE_SECONDS):
                message = await self._hub.start_failure(agent, name)
        except (HubApiError, TimeoutError):
            return
        if message is not None:
            raise StartFailed(_outcome(0, message), message)

    async def _patiently(self, question: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Return an answer of the Hub, which may be away for a while."""
        pause = self.poll_interval
        while True:
            try:
                return await question()
            except HubApiError as exc:
                if exc.status not in _LATER or time.monotonic() > deadline:
                    raise StartFailed("start_failed", exc.message) from exc
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads requests, no secret
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS / 10)

    # ---- stopping ----

    async def _stop(self, agent: str, name: str) -> None:
        began, said, pause = time.monotonic(), False, 0.2
        while True:
            try:
                if await self._is_gone(agent, name):
                    return
            except HubApiError as exc:
                self.log.debug("the server %s of %s is not stopped yet: %s", name, agent, exc.message)
            if not said and time.monotonic() - began > self.stop_timeout:
                said = True
                self.log.warning("the server %s of %s did not end within %g s", name, agent, self.stop_timeout)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS if said else 3.0)

    async def _is_gone(self, agent: str, name: str) -> bool:
        """Ask for the server's end; return whether the Hub knows it no more."""
        model = await self.model(agent, name)
        if model is not None and model["pending"] != "stop":
            await self._hub.stop_server(agent, name, remove=True)
            model = await self.model(agent, name)
        return model is None

    async def _stop_leftovers(self, agents: list[str], is_used: Callable[[str, str], bool]) -> None:
        for agent in agents:
            for name in await self._names(agent):
                if TASK_SERVER.fullmatch(name) and not is_used(agent, name):
                    self.log.info("the server %s of %s is left from an earlier service: it is stopped", name, agent)
                    self.stop(agent, name)

    async def _names(self, agent: str) -> list[str]:
        while True:
            try:
                return list((await self._hub.user(agent))["servers"])
            except HubApiError as exc:
                if exc.status not in _LATER:
                    return []
            await asyncio.sleep(2)


def compact(options: UserOptions) -> dict[str, Any]:
    """Return options as the Hub's `user_options`: what differs from the defaults."""
    usual = to_json(UserOptions())
    return {key: value for key, value in to_json(options).items() if value != usual[key]}


def _is_asked_again(status: int, message: str) -> bool:
    """Whether a refusal is one of the moment: the Hub or the controller is away or busy, or it is asked for already."""
    if status in (0, 429) or (status == 503 and "controller" in message):
        return True
    return status == 400 and ("already running" in message or "is pending" in message)


def _outcome(status: int, message: str) -> TaskReason:
    """Return why a start failed, by the status of the spawner's error and its sentence."""
    if status == 409 or "can ever serve this request" in message:
        return "refused"
    if "GPU-hours" in message or (status == 403 and "scope" not in message):
        return "quota"
    return "start_failed"
