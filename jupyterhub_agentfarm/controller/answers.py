"""Error answers of the controller, back as the exceptions they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import (
    AgentFarmError,
    ConfigError,
    ConflictError,
    FarmUnavailable,
    GpuBusy,
    HostKeyRefused,
    InvalidField,
    LaunchFailed,
    LoginRefused,
    NodedError,
    NodeUnreachable,
    NotFoundError,
    PlacementRefused,
    ProtocolError,
    QuotaExceeded,
    RemoteCommandFailed,
    ServerDied,
    TransportError,
)

Maker = Callable[[str, dict[str, Any]], AgentFarmError]


def _plain(kind: type[AgentFarmError]) -> Maker:
    return lambda message, facts: kind(message)


def _of_node(kind: type[TransportError]) -> Maker:
    def make(message: str, facts: dict[str, Any]) -> AgentFarmError:
        node = str(facts.get("node", "?"))
        return kind(node, message.removeprefix(f"node {node}: "))

    return make


def _of_noded(kind: type[NodedError]) -> Maker:
    def make(message: str, facts: dict[str, Any]) -> AgentFarmError:
        reason = str(facts.pop("noded_reason", "error"))
        return kind(message, reason, facts)

    return make


def _remote_command(message: str, facts: dict[str, Any]) -> AgentFarmError:
    status = facts.get("exit_status")
    error = RemoteCommandFailed(
        str(facts.get("node", "?")),
        str(facts.get("command", "")),
        status if isinstance(status, int) else None,
        str(facts.get("stderr", "")),
    )
    error.args = (message,)
    return error


def _invalid(message: str, facts: dict[str, Any]) -> AgentFarmError:
    error = InvalidField(str(facts.get("field")), str(facts.get("wanted")), None)
    error.args = (message,)
    return error


_MAKERS: dict[str, Maker] = {
    **{kind.reason: _plain(kind) for kind in (ConfigError, NotFoundError, ConflictError)},
    QuotaExceeded.reason: QuotaExceeded,
    **{kind.reason: _plain(kind) for kind in (FarmUnavailable, ProtocolError)},
    **{kind.reason: _of_node(kind) for kind in (TransportError, NodeUnreachable, LoginRefused, HostKeyRefused)},
    **{kind.reason: _of_noded(kind) for kind in (NodedError, GpuBusy, LaunchFailed)},
    InvalidField.reason: _invalid,
    RemoteCommandFailed.reason: _remote_command,
    PlacementRefused.reason: lambda message, facts: PlacementRefused(facts.get("refusals") or {}, message),
    ServerDied.reason: lambda message, facts: ServerDied(message, str(facts.get("log_tail", ""))),
}


def error_of(status: int, answer: Any) -> AgentFarmError:
    """Return the exception that an error answer stands for.

    Parameters
    ----------
    status
        The HTTP status.
    answer
        The decoded body.
    """
    facts = dict(answer) if isinstance(answer, dict) else {}
    reason, message = facts.pop("reason", None), facts.pop("message", None)
    if reason in _MAKERS and isinstance(message, str):
        return _MAKERS[reason](message, facts)
    if status in (401, 403):
        return AgentFarmError(f"the controller refused this ({status}): {message or 'the token is not allowed to'}")
    if 502 <= status <= 504:
        return FarmUnavailable(
            f"the controller does not answer (status {status}): see the log of the agentfarm service"
        )
    return AgentFarmError(f"the controller answered {status}: {message or 'without a message'}")
