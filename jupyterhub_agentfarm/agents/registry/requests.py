"""What admins ask of the registry beyond the registration itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ...errors import InvalidField
from ..models import Agent, AgentLimits, check_token_seconds, check_user_name

_REASON_CHARACTERS = 500


@dataclass(frozen=True)
class TokenRequest:
    """How long a new token is to be good; it ends with the agent in any case."""

    expires_in_seconds: float = 7 * 86400.0

    def __post_init__(self) -> None:
        """Refuse what no token can be."""
        check_token_seconds(self.expires_in_seconds, "expires_in_seconds")


@dataclass(frozen=True)
class SuspendRequest:
    """Why an agent is suspended, for people."""

    reason: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no reason."""
        _check_reason(self.reason)


@dataclass(frozen=True)
class RetireRequest:
    """Why an agent is retired, for people, and what becomes of its files on the nodes."""

    reason: str = ""
    #: "keep": they stay where they are. "archive": those that its running servers show are packed first, on the Hub's
    #: machine; the agent's `detail` says where.
    workspace: Literal["keep", "archive"] = "keep"

    def __post_init__(self) -> None:
        """Refuse what is no reason."""
        _check_reason(self.reason)


@dataclass(frozen=True)
class AgentChange:
    """What is to be another with an agent; what is null stays."""

    description: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] | None = None
    limits: AgentLimits | None = None
    kernels: tuple[str, ...] | None = None
    #: From now; 0: never.
    expires_in_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no agent can be."""
        if self.description is not None and len(self.description) > 2000:
            raise InvalidField("description", "at most 2000 characters", self.description)
        if self.owner == "":
            raise InvalidField("owner", "a user of the Hub", self.owner)
        check_user_name(self.owner or "", "owner")
        if self.expires_in_seconds is not None and not 0 <= self.expires_in_seconds <= 3660 * 86400.0:
            wanted = "a number of seconds, at most ten years, or 0 for never"
            raise InvalidField("expires_in_seconds", wanted, self.expires_in_seconds)

    def applied(self, agent: Agent, now: float) -> Agent:
        """Return the agent as it is to be."""
        named = {name: value for name, value in vars(self).items() if value is not None}
        seconds = named.pop("expires_in_seconds", None)
        if seconds is not None:
            named["expires_at"] = now + seconds if seconds else None
        return replace(agent, **named)


def _check_reason(reason: str) -> None:
    if len(reason) > _REASON_CHARACTERS:
        raise InvalidField("reason", f"at most {_REASON_CHARACTERS} characters", reason)
