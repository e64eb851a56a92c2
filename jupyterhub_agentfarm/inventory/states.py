"""NodeStates: the state of each node, from what its link tells, and who watches.

What changes a state::

    unreachable ── link up ──▶ ready            since_at: when the state changed
    ready ── link down ──▶ unreachable          detail: the link's newest reason
    unreachable ── for `down_after` ──▶ down
    down ── link up ──▶ ready

A node begins as unreachable, with the timer running: one that never answers is down after `down_after` too.

A node whose host key is refused, or that refuses our login, is in quarantine by that: nothing is sent to it, nothing is
placed there, its `reason` says which of the two, the log has one line for admins at each change, and every attempt is
counted for ``agentfarm_node_refused_total``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from jupyterhub_agentfarm.errors import AgentFarmError, NotFoundError
from jupyterhub_agentfarm.logs import LogLine
from jupyterhub_agentfarm.metrics import NODE_REFUSALS
from jupyterhub_agentfarm.models import Kernel, Node, NodeFacts, NodeState, ServerStatus, Telemetry
from jupyterhub_agentfarm.transport import NodeLink

from .watch import Event, Follower, NodeChanged, NodeReady, NodeRemoved, ServerExited, TelemetryArrived, Watch


@dataclass
class _Entry:
    """A node and what keeps it up to date."""

    node: Node
    link: NodeLink
    #: Runs while the node is unreachable.
    down_timer: asyncio.TimerHandle | None = None
    #: Attempts that were refused, for each reason.
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODE_REFUSALS, 0))


class NodeStates:
    """The nodes' records, kept by being the listener of their links; the inventory's other half.

    Parameters
    ----------
    clock
        Seconds since the epoch.
    """

    #: Both come from the configurable class that this one is mixed into.
    log: Any
    down_after: Any

    def __init__(self, clock: Callable[[], float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._watchers: set[Watch | Follower] = set()
        self._closed = False

    # ---- reading ------------------------------------------------------------------------------------------------

    def all_nodes(self) -> tuple[Node, ...]:
        """Return every node, by name."""
        return tuple(entry.node for _name, entry in sorted(self._entries.items()))

    def node(self, name: str) -> Node:
        """Return a node.

        Raises
        ------
        NotFoundError
            There is none of this name.
        """
        return self._entry(name).node

    def link(self, name: str) -> NodeLink:
        """Return the link to a node.

        Raises
        ------
        NotFoundError
            There is no node of this name.
        """
        return self._entry(name).link

    def refused(self, name: str) -> dict[str, int]:
        """Return how many connections to a node were refused since the controller started, for each reason.

        Raises
        ------
        NotFoundError
            There is no node of this name.
        """
        return dict(self._entry(name).refused)

    def watch(self) -> Watch:
        """Return a subscription to everything that happens from now on."""
        watch = Watch(self._watchers)
        if self._closed:
            watch.close()
        return watch

    def follow(self, on_event: Callable[[Event], None]) -> Follower:
        """Have `on_event` called at the moment of every event from now on; it must be quick and must not raise."""
        return Follower(self._watchers, on_event)

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(sorted(self._entries)) or "none yet"
            raise NotFoundError(f"there is no node {name}; the nodes are: {known}") from None

    # ---- nodes that come and go ---------------------------------------------------------------------------------

    def _enter(self, node: Node, link: NodeLink) -> None:
        entry = self._entries[node.name] = _Entry(node, link)
        self._start_timer(entry)
        link.start()
        self._tell(NodeChanged(node.name, node))

    async def _leave(self, name: str) -> None:
        entry = self._entries.pop(name)
        self._cancel_timer(entry)
        await entry.link.aclose()
        self._tell(NodeRemoved(name))

    async def _close_links(self) -> None:
        self._closed = True
        for entry in self._entries.values():
            self._cancel_timer(entry)
        await asyncio.gather(*(entry.link.aclose() for entry in self._entries.values()))

    def _close_watches(self) -> None:
        for watch in list(self._watchers):
            watch.close()

    # ---- what the links tell ------------------------------------------------------------------------------------

    def link_up(self, name: str, facts: NodeFacts, servers: tuple[ServerStatus, ...]) -> None:
        """Make the node ready."""
        entry = self._entries.get(name)
        if entry is None:
            return
        before = entry.node.facts
        if before is not None and before.boot_id != facts.boot_id:
            self.log.warning(LogLine("node restarted", node=name))
        self._cancel_timer(entry)
        skew = self._clock() - facts.time
        self._set_state(entry, "ready", "connected", facts=facts, clock_skew_seconds=skew, reason="")
        self._tell(NodeReady(name, servers))

    def link_down(self, name: str, exc: AgentFarmError) -> None:
        """Make the node unreachable; one that is down stays so. The newest reason is kept."""
        entry = self._entries.get(name)
        if entry is None:
            return
        detail, node = exc.message.removeprefix(f"node {name}: "), entry.node
        if exc.reason in entry.refused:
            entry.refused[exc.reason] += 1
            if (exc.reason, detail) != (node.reason, node.detail):
                self.log.error("node %s is in quarantine (%s): %s", name, exc.reason, detail)
        if node.state == "ready":
            self._start_timer(entry)
            self._set_state(entry, "unreachable", detail, reason=exc.reason)
        elif (node.reason, node.detail) != (exc.reason, detail):
            self._set_state(entry, node.state, detail, reason=exc.reason)

    def telemetry(self, name: str, report: Telemetry) -> None:
        """Keep the node's report."""
        entry = self._entries.get(name)
        if entry is None:
            return
        now = self._clock()
        entry.node = replace(entry.node, telemetry=report, reported_at=now, clock_skew_seconds=now - report.time)
        self._tell(TelemetryArrived(name))

    def server_exited(self, name: str, status: ServerStatus) -> None:
        """Pass it on."""
        self._tell(ServerExited(name, status))

    def note_kernels(self, name: str, kernels: tuple[Kernel, ...] | None, error: str = "") -> None:
        """Keep which kernels a node's servers have, and why it could not tell when it was asked last.

        Raises
        ------
        NotFoundError
            There is no node of this name.
        """
        node = self.node(name)
        if (node.kernels, node.kernels_error) != (kernels, error):
            self._change(name, kernels=kernels, kernels_error=error)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _start_timer(self, entry: _Entry) -> None:
        loop = asyncio.get_running_loop()
        entry.down_timer = loop.call_later(self.down_after, self._declare_down, entry)

    def _cancel_timer(self, entry: _Entry) -> None:
        if entry.down_timer is not None:
            entry.down_timer.cancel()
            entry.down_timer = None

    def _declare_down(self, entry: _Entry) -> None:
        entry.down_timer = None
        self._set_state(entry, "down", entry.node.detail)

    def _set_state(self, entry: _Entry, state: NodeState, detail: str, **changes: Any) -> None:
        node = entry.node
        if state != node.state:
            self.log.info(LogLine(f"node {state}", node=node.name, detail=detail))
            changes["since_at"] = self._clock()
        entry.node = replace(node, state=state, detail=detail, **changes)
        self._tell(NodeChanged(node.name, entry.node))

    def _change(self, name: str, **changes: Any) -> Node:
        entry = self._entry(name)
        entry.node = replace(entry.node, **changes)
        self._tell(NodeChanged(name, entry.node))
        return entry.node

    def _tell(self, event: Event) -> None:
        for watch in list(self._watchers):
            watch.put(event)
