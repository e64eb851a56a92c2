"""Everything that can go wrong, in one tree.

::

    AgentFarmError
    ├── ConfigError              an option of the configuration cannot be used
    ├── InvalidField             a field of a request or a file has the wrong form
    ├── BodyTooLarge             a request's body is longer than the service reads
    ├── WrongContentType         a request's body is not declared as JSON
    ├── NotFoundError            the named thing does not exist
    ├── ConflictError            the thing exists, but not in a state that allows this
    │   └── Fenced               the attempt is over: another one, or none, has the task
    ├── NoSpace                  a file cannot be kept: it is too large, or the disk cannot be written
    │   └── DiskFull             the disk is full now: the same may be kept later
    ├── PlacementRefused         no node could ever serve the request
    ├── QuotaExceeded            the owner may not have more
    ├── TooMany                  whoever asks has as much of this under way as one may have
    ├── Overloaded               too many others wait for the same
    ├── FarmUnavailable          the controller did not answer
    ├── ProtocolError            the peer does not speak this version of the protocol
    ├── TransportError           a node could not be reached or did not do as told
    │   ├── NodeUnreachable      no connection, or it was lost
    │   │   └── LoginRefused     the node does not take our key or certificate
    │   ├── HostKeyRefused       the node's host key does not vouch for it
    │   └── RemoteCommandFailed  a command on the node ended with a non-zero status
    ├── NodedError               noded answered with an error of its own
    │   ├── GpuBusy              a live server holds the GPU
    │   └── LaunchFailed         the server's process could not be started
    ├── ServerDied               the server ended before it answered
    ├── ServerNotRunning         a user's server is asked for something and does not run
    ├── ServerUnreachable        a user's server does not answer through the proxy
    ├── ServerRefused            a user's server answered that it will not
    ├── KernelBusy               a kernel executes something else
    ├── HubApiError              the Hub's REST API refused or failed
    └── RunFailed                a notebook run could not be carried out

Every class has a fixed ``reason``: it is what APIs answer, metrics label and tests compare.
Messages are for people. Facts are attributes; the message is built from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class AgentFarmError(Exception):
    """Something went wrong in the farm."""

    #: Fixed, machine-readable; what `{"message", "reason"}` answers carry.
    reason: ClassVar[str] = "error"
    #: The HTTP status an API answers this with.
    http_status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])

    @property
    def message(self) -> str:
        """What happened and what to do, in one sentence for people."""
        return str(self)

    def facts(self) -> dict[str, object]:
        """Return what is known beyond the message, as JSON-ready values."""
        return {}


class ConfigError(AgentFarmError):
    """An option of the configuration cannot be used."""

    reason = "config"


class InvalidField(AgentFarmError):
    """A field has the wrong form.

    Parameters
    ----------
    field
        Name of the field or option, dotted for nested ones.
    wanted
        The form that is wanted, as a noun phrase: "a whole number of at least 0".
    got
        The value that came.
    """

    reason = "invalid"
    http_status = 400

    def __init__(self, field: str, wanted: str, got: object) -> None:
        self.field, self.wanted, self.got = field if len(field) <= 100 else f"{field[:97]}...", wanted, got
        shown = repr(got)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"{self.field} must be {wanted}, not {shown}")

    def facts(self) -> dict[str, object]:
        """Return the field and the form wanted."""
        return {"field": self.field, "wanted": self.wanted}


class BodyTooLarge(AgentFarmError):
    """The request's body is longer than this service reads."""

    reason = "too_large"
    http_status = 413

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        super().__init__(f"the request's body is longer than the {max_bytes} bytes that are read here")

    def facts(self) -> dict[str, object]:
        """Return the most that is read."""
        return {"max_bytes": self.max_bytes}


class WrongContentType(AgentFarmError):
    """The request's body is not declared as JSON."""

    reason = "content_type"
    http_status = 415

    def __init__(self, content_type: str) -> None:
        self.content_type = content_type
        shown = repr(content_type[:80]) if content_type else "none"
        super().__init__(f"a request's body must be sent with Content-Type: application/json, not {shown}")


class NotFoundError(AgentFarmError):
    """The named thing does not exist."""

    reason = "not_found"
    http_status = 404


class ConflictError(AgentFarmError):
    """The thing is not in a state that allows this."""

    reason = "conflict"
    http_status = 409


class Fenced(ConflictError):
    """The attempt is over: what is told about it is refused.

    Parameters
    ----------
    task
        The attempt's task.
    number
        The attempt's number within the task.
    """

    reason = "fenced"

    def __init__(self, task: str, number: int) -> None:
        self.task, self.number = task, number
        super().__init__(f"attempt {number} of task {task} is over: what it leaves is not kept")

    def facts(self) -> dict[str, object]:
        """Return the task and the attempt's number."""
        return {"task": self.task, "attempt": self.number}


class NoSpace(AgentFarmError):
    """A file cannot be kept: the disk is full or cannot be written, or the file is larger than what is kept."""

    reason = "no_space"
    http_status = 507


class DiskFull(NoSpace):
    """The disk is full, or the account's share of it: once there is room again, the same can be kept."""

    reason = "disk_full"


class PlacementRefused(AgentFarmError):
    """No node of this farm could ever serve the request.

    Parameters
    ----------
    refusals
        For each node, the reason and the detail it was refused with.
    """

    reason = "refused"
    http_status = 409

    def __init__(self, refusals: Mapping[str, str], message: str | None = None) -> None:
        self.refusals = dict(refusals)
        super().__init__(message or self._sentence())

    def _sentence(self) -> str:
        if not self.refusals:
            return "The farm has no nodes yet: add one with `agentfarm nodes add`."
        each = "; ".join(f"{node}: {why}" for node, why in sorted(self.refusals.items())[:8])
        more = f"; and {len(self.refusals) - 8} more nodes" if len(self.refusals) > 8 else ""
        return f"No node of this farm can ever serve this request ({each}{more})."

    def facts(self) -> dict[str, object]:
        """Return each node's refusal."""
        return {"refusals": self.refusals}


class QuotaExceeded(AgentFarmError):
    """The owner may not have more.

    Parameters
    ----------
    known
        Which quota, and what is known of it: `quota`, `used`, `limit`, and `frees_at`, when some of it is free again.
    """

    reason = "quota"
    http_status = 403

    def __init__(self, message: str | None = None, known: Mapping[str, object] | None = None) -> None:
        self.known = dict(known or {})
        super().__init__(message)

    def facts(self) -> dict[str, object]:
        """Return what is known of the quota."""
        return self.known


class TooMany(AgentFarmError):
    """You have as much of this under way as one user may have: wait until some of it has ended."""

    reason = "too_many"
    http_status = 429


class Overloaded(AgentFarmError):
    """Too many others wait for the same: try again later."""

    reason = "overloaded"
    http_status = 503


class FarmUnavailable(AgentFarmError):
    """The controller does not answer; see the log of the `agentfarm` service."""

    reason = "controller_unavailable"
    http_status = 503


class ProtocolError(AgentFarmError):
    """The peer does not speak this version of the protocol."""

    reason = "protocol"
    http_status = 502


class TransportError(AgentFarmError):
    """A node could not be reached or did not do as told."""

    reason = "transport"
    http_status = 502

    def __init__(self, node: str, message: str) -> None:
        self.node = node
        super().__init__(f"node {node}: {message}")

    def facts(self) -> dict[str, object]:
        """Return the node's name."""
        return {"node": self.node}


class NodeUnreachable(TransportError):
    """There is no connection to the node, or it was lost."""

    reason = "node_unreachable"
    http_status = 503


class LoginRefused(NodeUnreachable):
    """The node does not take the key or certificate that the controller logs in with."""

    reason = "login_refused"


class HostKeyRefused(TransportError):
    """The node's host key or certificate is not one that vouches for it."""

    reason = "host_key"


class RemoteCommandFailed(TransportError):
    """A command on the node ended with a non-zero exit status."""

    reason = "remote_command"

    def __init__(self, node: str, command: str, exit_status: int | None, stderr: str) -> None:
        self.command, self.exit_status, self.stderr = command, exit_status, stderr
        last = stderr.strip().splitlines()[-1:] or ["it wrote nothing to stderr"]
        super().__init__(node, f"`{command}` ended with status {exit_status}: {last[0]}")

    def facts(self) -> dict[str, object]:
        """Return command, exit status and stderr."""
        return super().facts() | {
            "command": self.command,
            "exit_status": self.exit_status,
            "stderr": self.stderr,
        }


class NodedError(AgentFarmError):
    """The node's daemon refused or failed.

    `remote_reason` is the reason noded gave; `remote_facts` what it knew.
    """

    reason = "noded"
    http_status = 502

    def __init__(
        self, message: str, remote_reason: str = "error", remote_facts: Mapping[str, object] | None = None
    ) -> None:
        self.remote_reason = remote_reason
        self.remote_facts = dict(remote_facts or {})
        super().__init__(message)

    def facts(self) -> dict[str, object]:
        """Return what noded knew."""
        return {"noded_reason": self.remote_reason, **self.remote_facts}


class GpuBusy(NodedError):
    """A live server on the node holds the GPU."""

    reason = "gpu_busy"


class LaunchFailed(NodedError):
    """The server's process could not be started."""

    reason = "launch_failed"


class ServerDied(AgentFarmError):
    """The server ended before it answered."""

    reason = "server_died"
    http_status = 502

    def __init__(self, message: str, log_tail: str = "") -> None:
        self.log_tail = log_tail
        super().__init__(message)

    def facts(self) -> dict[str, object]:
        """Return the last lines of the server's log."""
        return {"log_tail": self.log_tail}


class ServerNotRunning(AgentFarmError):
    """The server is not running."""

    reason = "server_not_running"
    http_status = 409


class ServerUnreachable(AgentFarmError):
    """The server does not answer through the proxy."""

    reason = "server_unreachable"
    http_status = 503


class ServerRefused(AgentFarmError):
    """The server answered that it will not do this."""

    reason = "server_refused"
    http_status = 502

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)

    def facts(self) -> dict[str, object]:
        """Return the status it answered with."""
        return {"status": self.status}


class KernelBusy(AgentFarmError):
    """The kernel executes something else."""

    reason = "kernel_busy"
    http_status = 409


class HubApiError(AgentFarmError):
    """The Hub's REST API refused or failed."""

    reason = "hub_api"
    http_status = 502

    def __init__(self, method: str, path: str, status: int, message: str) -> None:
        self.method, self.path, self.status = method, path, status
        super().__init__(f"the Hub answered {status} to {method} {path}: {message}")

    def facts(self) -> dict[str, object]:
        """Return the request and the status it was answered with."""
        return {"method": self.method, "path": self.path, "status": self.status}


class RunFailed(AgentFarmError):
    """A notebook run could not be carried out."""

    reason = "run_failed"
