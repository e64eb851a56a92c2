"""The pages of agents and tasks, and notebooks as documents of their own.

A page is a frame that its script fills from the API and keeps current by events. What somebody may not see is, here as
there, a page that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from http.client import responses
from typing import Any

from ...errors import AgentFarmError, HubApiError, NotFoundError, Overloaded, TooMany
from ...services.handlers import PageHandler
from ..access import acts_for, manages, unknown_agent
from ..models import Task
from ..registry.handlers import NAME
from ..registry.hub_users import AGENT_NOTE
from ..tasks.handlers import BookHandler

ID = r"([0-9a-f]{16})"

#: Whatever a notebook holds: no script, no request, no form, and no origin that a cookie belongs to.
NOTEBOOK_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
        "sandbox",
    )
)
#: In the frame of a task's page it keeps this origin, so that the page can measure it and find its cells. Scripts run
#: as little as anywhere: the sandbox lets none, and neither does `default-src`.
FRAMED_POLICY = f"{NOTEBOOK_POLICY} allow-same-origin"
#: What a person's token for VS Code is to be asked for with, by the name of the user.
VSCODE_SCOPES = ("access:servers", "read:servers", "servers")


@dataclass(frozen=True)
class TokenTimes:
    """What is shown of a token."""

    expires_at: float
    #: None: it was not used yet.
    used_at: float | None


def _times(token: Mapping[str, Any]) -> TokenTimes:
    used = token["last_activity"]
    return TokenTimes(_seconds(token["expires_at"]), None if used is None else _seconds(used))


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


class AgentsPageHandler(BookHandler, PageHandler):
    """A handler of pages of this service, which shows what the API tells."""

    def show(self, template: str, **context: Any) -> None:
        """Finish with a page that knows what who looks at it may do."""
        self.render_page(template, manage=manages(self.principal), **context)


class AgentsPage(AgentsPageHandler):
    """Agents, and the board of tasks."""

    async def get(self) -> None:
        """Show the page."""
        self.show("agents.html")


class AgentPage(AgentsPageHandler):
    """One agent."""

    async def get(self, name: str) -> None:
        """Show the page."""
        agent = self.seen_agent(name)
        tokens = await self._tokens(name) if acts_for(self.principal, agent) else None
        self.show("agent.html", agent=agent, tokens=tokens)

    async def _tokens(self, name: str) -> list[TokenTimes] | None:
        """Return when the agent's own tokens end, the last one first; None where the Hub does not tell."""
        try:
            _, answer = await self.service.hub.request("GET", f"/users/{name}/tokens")
        except HubApiError:
            return None
        own = [_times(token) for token in answer["api_tokens"] if token["note"] == AGENT_NOTE]
        return sorted(own, key=lambda token: -token.expires_at)


class TaskPage(AgentsPageHandler):
    """One task, live."""

    async def get(self, task_id: str) -> None:
        """Show the page."""
        task, _ = await self.seen_task(task_id)
        self.show("task.html", task=task)


class ConnectPage(AgentsPageHandler):
    """How VS Code connects."""

    async def get(self) -> None:
        """Show the steps, for whoever asks or for an agent of theirs."""
        user = self.get_query_argument("user", self.principal.name)
        if user != self.principal.name:
            agent = self.seen_agent(user)
            if not acts_for(self.principal, agent):
                raise unknown_agent(user)
        leases = sorted(self.service.farm.leases.values(), key=lambda lease: str(lease["server_name"]))
        servers = [lease for lease in leases if (lease["owner"], lease["state"]) == (user, "running")]
        scopes = [f"{scope}!user={user}" for scope in VSCODE_SCOPES]
        self.show("connect.html", user=user, servers=servers, scopes=scopes)


class NotebookDocument(AgentsPageHandler):
    """A task's notebook as a document: as far as it is executed, or as it was submitted."""

    async def get(self, task_id: str) -> None:
        """Show the document."""
        task, _ = await self.seen_task(task_id)
        user = f"{self.principal.kind} {self.principal.name}"
        name, document = await self.service.renderer.document(await self._notebook(task), user)
        self.set_header("Cache-Control", "private, no-cache")
        self.set_header("Vary", "Sec-Fetch-Dest")
        framed = self._framed()
        self.set_header("Etag", f'"{name[:32]}{"-framed" if framed else ""}"')
        if self.check_etag_header():
            self.set_status(304)
            await self.finish()
            return
        self._send(document)

    async def _notebook(self, task: Task) -> bytes:
        live: bytes | None = await self.service.live.get(task)
        if live is not None:
            return live
        files = self.service.book.files
        try:
            return bytes(await files.executed(task.id))
        except NotFoundError:
            return bytes(await files.notebook(task.id))

    def _framed(self) -> bool:
        return self.request.headers.get("Sec-Fetch-Dest") == "iframe"

    def _send(self, document: bytes) -> None:
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.set_header("Content-Security-Policy", FRAMED_POLICY if self._framed() else NOTEBOOK_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(document)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say in the document's place why there is none."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if not self._framed():
            super().write_error(status_code, **kwargs)
            return
        message = responses.get(status_code, "Error")
        if isinstance(error, AgentFarmError):
            message = error.message
            self.set_status(error.http_status)
        self._send(self.service.renderer.message(message, again=isinstance(error, (TooMany, Overloaded))))


#: Routes below the service's prefix.
ROUTES: list[tuple[Any, ...]] = [
    (r"", AgentsPage),
    (r"connect", ConnectPage),
    (rf"agents/{NAME}", AgentPage),
    (rf"tasks/{ID}", TaskPage),
    (rf"tasks/{ID}/rendered", NotebookDocument),
]
