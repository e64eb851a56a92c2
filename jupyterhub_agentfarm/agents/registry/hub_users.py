"""HubUsers: what the Hub knows of agents, and every request to it about them.

An agent is a Hub user in the group `agents`, and the service may do to members of that group what it needs: mint and
revoke their tokens, stop their servers, share these with the owner. A Hub has no narrower scope for making and deleting
users than `admin:users`.

Tokens always name their scopes: one without would carry all that its user may do. And the Hub gives a token only what
its user holds, which for agents is what the role on their group says (:mod:`jupyterhub_agentfarm.service_roles`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote

from ...errors import ConflictError, HubApiError, InvalidField, ServerDied
from ...services.hub import HubClient

#: Hub group of all agents.
GROUP = "agents"
#: Notes on tokens: by them the service knows its own again.
AGENT_NOTE = "agentfarm: token of the agent"
TASKS_NOTE = "agentfarm: for the agent's tasks"
#: What the Hub writes on the token of a user's server.
_SERVER_NOTE = "Server at "
_PAGE_USERS = 200
#: Shares that are asked for at a time.
PAGE_SHARES = 100
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class HubToken:
    """A token that was just made."""

    token: str = field(repr=False)
    expires_at: float = 0.0


def agent_scopes(name: str) -> list[str]:
    """Return what an agent's own token may do: its servers, the agents service, and the sight of the farm."""
    mine = ("access:servers", "servers", "read:users:name", "read:users:groups")
    return [
        *(f"{scope}!user={name}" for scope in mine),
        "access:services!service=agents",
        "access:services!service=agentfarm",
        "custom:agentfarm:nodes:read",
        "custom:agents:tasks:submit",
    ]


def tasks_scopes(name: str) -> list[str]:
    """Return what the service's tokens for an agent's tasks may do: reach the agent's servers, no more."""
    return [f"access:servers!user={name}"]


class HubUsers:
    """The Hub users that agents are.

    Parameters
    ----------
    hub
        The Hub's API, with the service's token.
    """

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub

    # ---- users and groups ----

    async def find(self, name: str) -> dict[str, Any] | None:
        """Return the model of a user, or None when the Hub has none of that name."""
        try:
            return await self._hub.user(name)
        except HubApiError as exc:
            if exc.status == 404:
                return None
            raise

    async def create(self, name: str) -> None:
        """Make the Hub user of an agent.

        Raises
        ------
        ConflictError
            There is a user of this name, or the Hub's authenticator does not take it.
        """
        try:
            await self._hub.request("POST", _user(name))
        except HubApiError as exc:
            raise _no_user(name, exc) from exc

    async def join(self, name: str, group: str) -> None:
        """Put an agent into a group.

        Raises
        ------
        ConflictError
            The Hub does not let the service do that, or has no such group.
        """
        try:
            await self._hub.request("POST", f"/groups/{quote(group, safe='')}/users", {"users": [name]})
        except HubApiError as exc:
            raise _no_member(name, group, exc) from exc

    async def delete(self, name: str) -> None:
        """Delete a user with its tokens, servers' names and shares; one that is not there is fine."""
        await _unless_absent(self._hub.request("DELETE", _user(name)))

    async def active_at(self) -> dict[str, float]:
        """Return for each user with a running server when it was active last."""
        found: dict[str, float] = {}
        offset = 0
        while True:
            query = f"/users?state=active&offset={offset}&limit={_PAGE_USERS}"
            _, page = await self._hub.request("GET", query)
            found |= {model["name"]: at for model in page if (at := activity(model)) is not None}
            offset += len(page)
            if len(page) < _PAGE_USERS:
                return found

    # ---- tokens ----

    async def mint(self, name: str, scopes: list[str], seconds: float, note: str) -> HubToken:
        """Make a token of an agent.

        Raises
        ------
        InvalidField
            The Hub does not make tokens that are good for so long.
        """
        body = {"note": note, "expires_in": int(seconds), "scopes": scopes}
        try:
            _, made = await self._hub.request("POST", f"{_user(name)}/tokens", body)
        except HubApiError as exc:
            if exc.status == 400 and "must not exceed" in exc.message:
                wanted = "at most c.JupyterHub.token_expires_in_max_seconds of the Hub"
                raise InvalidField("token_expires_in_seconds", wanted, int(seconds)) from exc
            raise
        return HubToken(made["token"], datetime.fromisoformat(made["expires_at"]).timestamp())

    async def revoke(self, name: str, keep_notes: Iterable[str] = ()) -> int:
        """Revoke a user's tokens, those of running servers and with one of these notes excepted; return how many.

        A server's token goes with the server.
        """
        kept = (_SERVER_NOTE, *keep_notes)
        found = await _unless_absent(self._hub.request("GET", f"{_user(name)}/tokens"))
        tokens = [] if found is None else found[1]["api_tokens"]
        ids = [token["id"] for token in tokens if not str(token["note"]).startswith(kept)]
        for token_id in ids:  # one of OAuth takes others with it
            await _unless_absent(self._hub.request("DELETE", f"{_user(name)}/tokens/{quote(token_id, safe='')}"))
        return len(ids)

    # ---- servers ----

    async def stop_servers(self, name: str, timeout_seconds: float) -> None:
        """Stop all servers of a user; return when they are gone.

        Raises
        ------
        ServerDied
            One is still there after `timeout_seconds`.
        """
        deadline = time.monotonic() + timeout_seconds
        while running := _running(await self.find(name)):
            if time.monotonic() > deadline:
                names = ", ".join(repr(server) for server in running)
                raise ServerDied(f"servers of {name} did not end within {timeout_seconds:g} s: {names}")
            stoppable = [server for server, pending in running.items() if pending != "stop"]
            # A start that is cancelled can be answered 500 although the server ends: what counts is what is left.
            await asyncio.gather(*(self._hub.stop_server(name, each) for each in stoppable), return_exceptions=True)
            await asyncio.sleep(_POLL_SECONDS)

    async def share(self, name: str, server_name: str, with_user: str) -> None:
        """Let a person open a server of an agent; repeating it changes nothing.

        Raises
        ------
        HubApiError
            There is no such server or person.
        """
        path = f"/shares/{quote(name, safe='')}/{quote(server_name, safe='')}"
        await self._hub.request("POST", path, {"user": with_user})

    async def unshare(self, name: str, owner: str) -> None:
        """Let nobody but the owner open the servers of an agent, those that are stopped included."""
        for share in await self._shares(name):
            user, group = ((share[kind] or {}).get("name") for kind in ("user", "group"))
            if user != owner:
                path = f"/shares/{quote(name, safe='')}/{quote(share['server']['name'], safe='')}"
                shared_with = {"user": user} if user else {"group": group}
                await _unless_absent(self._hub.request("PATCH", path, shared_with))

    async def _shares(self, name: str) -> list[dict[str, Any]]:
        """Return all that is shared of a user."""
        found: list[dict[str, Any]] = []
        while True:
            query = f"/shares/{quote(name, safe='')}?offset={len(found)}&limit={PAGE_SHARES}"
            answer = await _unless_absent(self._hub.request("GET", query))
            page = [] if answer is None else answer[1]["items"]
            found += page
            if answer is None or not page or answer[1]["_pagination"]["next"] is None:
                return found


def activity(model: dict[str, Any]) -> float | None:
    """Return when the user of a Hub model was active last; None: never."""
    text = model.get("last_activity")
    return datetime.fromisoformat(str(text)).timestamp() if text else None


def taken_at_hub(name: str) -> ConflictError:
    """Return what is said of a name that a user of the Hub has."""
    return ConflictError(f"the Hub has a user {name} already, and an agent needs a name of its own")


def _running(model: dict[str, Any] | None) -> dict[str, str | None]:
    """Return the servers of a user that run or are on their way, with what is pending."""
    servers = {} if model is None else model["servers"]
    return {name: each["pending"] for name, each in servers.items() if each["ready"] or each["pending"]}


def _user(name: str) -> str:
    return f"/users/{quote(name, safe='')}"


async def _unless_absent(request: Any) -> Any:
    """Return what a request is answered, or None when the Hub has no such thing."""
    try:
        return await request
    except HubApiError as exc:
        if exc.status == 404:
            return None
        raise


def _no_user(name: str, exc: HubApiError) -> ConflictError | HubApiError:
    if exc.status == 409:
        return taken_at_hub(name)
    if exc.status != 400:
        return exc
    return ConflictError(
        f"the Hub's authenticator takes no user {name}: with PAM an agent needs an account on the Hub's machine "
        f"(`adduser --system --no-create-home {name}`), or set c.LocalAuthenticator.create_system_users"
    )


def _no_member(name: str, group: str, exc: HubApiError) -> ConflictError | HubApiError:
    if exc.status in (403, 404):
        return ConflictError(
            f"the Hub has no group {group}, or lets nobody but its admins fill it: name it in configure(c, projects=…)"
        )
    if exc.status == 400:  # before JupyterHub 5.3, where the authenticator manages groups
        return ConflictError(
            f"{name} cannot be put into the Hub group {group} ({exc.message}): agents need a Hub whose groups can be "
            "changed by its API; unset c.Authenticator.manage_groups, or use JupyterHub 5.3 or newer"
        )
    return exc
