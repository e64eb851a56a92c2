"""The farm as the controller tells it to the other services, kept fresh by following its events.

One connection is held. When it is lost, it is made again after a pause, and the state known so far grows old: the
metrics page then shows every node as not up, because no report is newer than its limit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from traitlets.config import LoggingConfigurable

from ..errors import AgentFarmError, FarmUnavailable
from ..faults import Edge
from ..traitlets import Seconds

NodeView = Mapping[str, Any]


class FarmEvents(Protocol):
    """The part of the controller's client that is used here."""

    def events(self) -> AsyncIterator[tuple[str, Any]]:
        """Follow the farm; ends, or raises an error of the farm, when the connection is lost."""


class FarmObserver(Protocol):
    """Who is told of every change, as it is taken in."""

    def reset(self, nodes: list[NodeView], leases: list[Mapping[str, Any]]) -> None:
        """Take everything anew."""

    def update_node(self, node: NodeView) -> None:
        """Take a node's newest state."""

    def remove_node(self, name: str) -> None:
        """Forget a node."""

    def update_lease(self, lease: Mapping[str, Any]) -> None:
        """Take a lease's newest state."""


class FarmWatch(LoggingConfigurable):
    """The newest state of nodes and leases.

    Parameters
    ----------
    client
        The controller's client.
    observer
        Is told about every change too; None: nobody is.
    """

    retry_delay = Seconds(
        1,
        help="Pause before the lost connection to the controller is made again, in seconds. Smaller: metrics are "
        "back sooner after a restart of the controller; larger: fewer useless attempts.",
    ).tag(config=True)

    def __init__(self, client: FarmEvents, observer: FarmObserver | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._client = client
        self._observer = observer
        self._task: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._said = False
        self.nodes: dict[str, NodeView] = {}
        self.leases: dict[str, Mapping[str, Any]] = {}

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._follow(), name="farm-watch")

    async def close(self) -> None:
        """Stop following; a second call does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def current(self) -> bool:
        """Whether the state is that of now: the controller's events arrive."""
        return self._known.is_set()

    async def ready(self, timeout_seconds: float = 10) -> None:
        """Return when the farm is known.

        Raises
        ------
        FarmUnavailable
            The controller told nothing within `timeout_seconds`.
        """
        try:
            await asyncio.wait_for(self._known.wait(), timeout_seconds)
        except TimeoutError as exc:
            raise FarmUnavailable from exc

    def absent(self, node: str) -> str:
        """Return why nothing can run on `node` now, or "" when it is connected."""
        view = self.nodes.get(node)
        if view is None:
            return "the node was removed from the farm"
        if view["state"] == "down":
            return f"the node is down: {view['detail']}" if view["detail"] else "the node is down"
        return ""

    def waiting_for(self, owner: str, server_name: str) -> str:
        """Return why a server's lease waits, or "" when it does not."""
        for lease in self.leases.values():
            if (lease["owner"], lease["server_name"], lease["state"]) == (owner, server_name, "waiting"):
                return f"it waits at position {lease['position']}: {lease['detail']}"
        return ""

    async def _follow(self) -> None:
        while True:
            try:
                # One bad event must not leave an old state for the newest.
                with Edge(self.log, "the controller's events cannot be understood, trying again", AgentFarmError):
                    async for event, data in self._client.events():
                        self._take(event, data)
            except AgentFarmError as exc:
                if self._known.is_set() or not self._said:
                    self._said = True
                    self.log.info("the controller cannot be followed, trying again: %s", exc.message)
            self._known.clear()
            await asyncio.sleep(self.retry_delay)

    def _take(self, event: str, data: Any) -> None:
        if event == "snapshot":
            self.nodes = {view["name"]: view for view in data["nodes"]}
            self.leases = {lease["id"]: lease for lease in data["leases"]}
            if self._observer is not None:
                self._observer.reset(data["nodes"], data["leases"])
            self._known.set()
        elif event == "node":
            self.nodes[data["name"]] = data
            if self._observer is not None:
                self._observer.update_node(data)
        elif event == "node_removed":
            self.nodes.pop(data["name"], None)
            if self._observer is not None:
                self._observer.remove_node(data["name"])
        elif event == "lease":
            self._take_lease(data)

    def _take_lease(self, lease: Mapping[str, Any]) -> None:
        if lease["state"] == "released":
            self.leases.pop(lease["id"], None)
        else:
            self.leases[lease["id"]] = lease
        if self._observer is not None:
            self._observer.update_lease(lease)
