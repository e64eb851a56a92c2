r"""The wire protocol between the controller and noded, version 1. This docstring is its specification.

Transport
    noded listens on a unix socket of mode 0600, ``<state_dir>/noded.sock``. The controller reaches it through one
    ``direct-streamlocal`` channel of its SSH connection to the node. Whoever can connect is the node's account or
    root: the socket's mode is the access control, and there is no other.

Framing
    One JSON object in UTF-8 per line, ended by ``\n``. A line is at most :data:`MAX_LINE_BYTES` long; a longer one,
    or one that is not a JSON object, ends the connection. Requests may be answered in any order.

Request, from the controller::

    {"id": 7, "method": "stop", "params": {"lease": "3f…", "grace_seconds": 10}}

Answer, from noded; exactly one per request::

    {"id": 7, "result": {...}}
    {"id": 7, "error": {"reason": "gpu_busy", "message": "GPU-1 is held by …", "facts": {...}}}

Event, from noded, unasked, after ``subscribe``::

    {"event": "telemetry", "data": {...}}

The methods
    =============  ==================================================  =============================================
    method         params                                              result
    =============  ==================================================  =============================================
    ``hello``      ``{"protocol": 1}``                                 :class:`~.models.NodeFacts`
    ``subscribe``  ``{}``                                              ``{"telemetry_interval_seconds": 2.0}``
    ``telemetry``  ``{}``                                              the latest :class:`~.models.Telemetry`
    ``servers``    ``{}``                                              ``{"servers": [ServerStatus, …]}``, those that
                                                                       ended less than an hour ago included
    ``launch``     :class:`~.models.LaunchSpec`                        :class:`~.models.ServerStatus`
    ``stop``       :class:`StopParams`                                 :class:`StopResult`, when everything is gone
    ``logs``       :class:`LogsParams`                                 ``{"text": "…"}``, the last lines of the log
    ``notify``     :class:`NotifyParams`                               ``{}``: the server shows the notice, or none
    ``forget``     ``{"lease": "3f…"}``                                ``{}``: an ended server's record and log are gone
    ``orphans``    :class:`OrphansParams`                              ``{"orphans": [Orphan, …]}``: processes that name
                                                                       a lease without a record
    ``projects``   :class:`ProjectsParams`                             :class:`ProjectsReport`
    =============  ==================================================  =============================================

    ``hello`` comes first; any other method before it is answered ``protocol``. A ``launch`` whose lease runs
    already answers with the status of the running server, so a repeated launch starts nothing twice. A ``launch``
    with an older epoch than the one noded knows for that lease is refused. ``stop`` of an unknown lease is
    a success: it is gone. noded forgets an ended server by itself after a day; ``forget`` is for who wants its log
    gone sooner, and the controller does not ask for it. ``orphans`` also tells noded which leases of the node the
    controller holds: noded ends an orphan after its ``--orphan-grace``, and only when the controller has asked since
    the orphan was first seen and did not name its lease.

The events
    =================  ========================================================================
    event              data
    =================  ========================================================================
    ``telemetry``      :class:`~.models.Telemetry`, every ``telemetry_interval_seconds``
    ``server_exited``  :class:`~.models.ServerStatus` with its ``exit``, at once
    =================  ========================================================================

Reasons of errors
    ``protocol``, ``unknown_method``, ``invalid`` (a parameter's form), ``not_found``, ``gpu_busy`` (a live server
    holds it; facts: ``gpu``, ``lease``), ``gpu_unknown`` (no such device here), ``stale_epoch``,
    ``launch_failed`` (facts: ``log_tail``), ``error`` (a fault of noded; its log has the traceback).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import ProtocolError
from .isolation import Isolation

PROTOCOL_VERSION = 1
#: Name of the file in a server's private directory that holds its notice.
NOTICE_FILE = "notice.json"
#: How long noded may take to answer ``launch``, in seconds. A server that binds its port itself must have done so.
LAUNCH_SECONDS = 90.0
#: A launch carries an environment, a log tail some lines: 4 MiB is far above both.
MAX_LINE_BYTES = 4 * 2**20

Method = Literal[
    "hello", "subscribe", "telemetry", "servers", "launch", "stop", "logs", "notify", "forget", "orphans", "projects"
]
Event = Literal["telemetry", "server_exited"]


@dataclass(frozen=True)
class Hello:
    """The first request: which protocol the controller speaks."""

    protocol: int


@dataclass(frozen=True)
class StopParams:
    """Stop a server: TERM to its whole group, after the grace KILL."""

    lease: str
    grace_seconds: float = 10


@dataclass(frozen=True)
class StopResult:
    """What stopping came to."""

    #: Nothing of the server is left: no process of its group or cgroup.
    gone: bool
    #: Its GPUs have no process of the server on them any more and can be leased again.
    gpus_free: bool


@dataclass(frozen=True)
class LogsParams:
    """Read back the end of a server's log."""

    lease: str
    lines: int = 50


@dataclass(frozen=True)
class Notice:
    """What a server is to tell its user, in :data:`NOTICE_FILE`."""

    #: What happens, without a full stop.
    message: str
    #: When it was decided.
    at: float
    #: When the server is stopped; None: it is not.
    deadline_at: float | None = None


@dataclass(frozen=True)
class NotifyParams:
    """Have a server tell its user something; None takes back what it was to tell."""

    lease: str
    notice: Notice | None


@dataclass(frozen=True)
class ProjectsParams:
    """Ask what is there of the projects' workspaces, under this isolation."""

    isolation: Isolation


@dataclass(frozen=True)
class ProjectsReport:
    """What is there of the projects' workspaces on a node."""

    #: Projects that have a directory.
    names: tuple[str, ...] = ()
    #: Of those, why a member's server is refused.
    faults: Mapping[str, str] = field(default_factory=dict)
    #: Why no server can have a project; "" is nothing.
    fault: str = ""


@dataclass(frozen=True)
class LeaseParams:
    """Names one server."""

    lease: str


@dataclass(frozen=True)
class OrphansParams:
    """List processes that no record stands for."""

    #: The leases of this node that the controller holds.
    held: tuple[str, ...] = ()


@dataclass(frozen=True)
class Orphan:
    """A process on a node that names a lease of which noded has no record."""

    pid: int
    #: Field 22 of /proc/PID/stat: makes a reused pid visible.
    pid_start_ticks: int
    lease: str
    #: The node's clock.
    started_at: float
    #: When noded saw it first, by the node's clock.
    seen_at: float


def encode(message: dict[str, Any]) -> bytes:
    """Return `message` as one line.

    Raises
    ------
    ProtocolError
        It is longer than :data:`MAX_LINE_BYTES`.
    """
    line = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError(f"a message of {len(line)} bytes is longer than the {MAX_LINE_BYTES} of the protocol")
    return line


def decode(line: bytes) -> dict[str, Any]:
    """Return the message that `line` holds.

    Raises
    ------
    ProtocolError
        It is not one JSON object.
    """
    try:
        message = json.loads(line)
    except ValueError as exc:
        raise ProtocolError(f"a line is not JSON: {line[:60]!r}") from exc
    if not isinstance(message, dict):
        raise ProtocolError(f"a line is not a JSON object: {line[:60]!r}")
    return message
