"""The registry's part of the API."""

from __future__ import annotations

from typing import Any, ClassVar

from ...errors import InvalidField
from ...services.description import DescriptionHandler
from ...services.handlers import NoOrder
from ..access import MANAGE, AgentsHandler, manages, sees_agent, unknown_agent
from ..models import Agent, AgentRequest
from .registry import Registry
from .requests import AgentChange, RetireRequest, SuspendRequest, TokenRequest
from .views import AgentViews

API = r"api/v1/"
#: An agent's name in a path; names that no agent can have are answered 404 like those that none has.
NAME = r"([^/]+)"


class RegistryHandler(AgentsHandler):
    """A handler that knows the registry."""

    @property
    def registry(self) -> Registry:
        """The service's agents."""
        registry: Registry = self.service.registry
        return registry

    @property
    def views(self) -> AgentViews:
        """What is shown of agents."""
        views: AgentViews = self.service.views
        return views

    def seen_agent(self, name: str) -> Agent:
        """Return an agent that whoever asks may see.

        Raises
        ------
        NotFoundError
            There is none, or it may not be seen.
        """
        agent = self.registry.agent(name)
        if not sees_agent(self.principal, agent):
            raise unknown_agent(name)
        return agent

    async def answer_view(self, agent: Agent) -> None:
        """Answer an agent: 202 when Hub and controller have still something to do for it."""
        view = await self.views.of_one(agent)
        self.answer(view, 202 if view["left_to_do"] else 200)


class AgentsListHandler(RegistryHandler):
    """All agents."""

    scopes: ClassVar[dict[str, str]] = {"POST": MANAGE}

    async def get(self) -> None:
        """List the agents that you may see: yourself, those that you own, or all; retired ones with `all=1`."""
        wanted = self.get_query_argument("all", "")
        if wanted not in ("", "1"):
            raise InvalidField("all", "1, or absent", wanted)
        retired_too = wanted == "1"
        seen = [agent for agent in self.registry.agents() if sees_agent(self.principal, agent)]
        seen = [agent for agent in seen if retired_too or agent.state != "retired"]
        self.answer({"agents": await self.views.of(seen)})

    async def post(self) -> None:
        """Register an agent, and answer it with its token, which nobody can read again."""
        request = self.body(AgentRequest)
        agent, token = await self.registry.register(request, self.principal.name, self.principal.kind)
        self.answer({"agent": await self.views.of_one(agent), "token": token}, 201)


class AgentHandler(RegistryHandler):
    """One agent."""

    scopes: ClassVar[dict[str, str]] = {"PATCH": MANAGE}

    async def get(self, name: str) -> None:
        """Answer the agent with its servers, its use of the farm and its tasks in numbers."""
        agent = self.seen_agent(name)
        if manages(self.principal) or self.own is None:  # an agent itself is active now
            await self.registry.note_activity_of(name)
            agent = self.registry.agent(name)
        self.answer(await self.views.of_one(agent))

    async def patch(self, name: str) -> None:
        """Change an agent: description, owner, labels, limits, kernels, expiry."""
        change = self.body(AgentChange)
        self.answer(await self.views.of_one(await self.registry.change(name, change, self.principal.name)))


class TokenHandler(RegistryHandler):
    """The agent's token."""

    scopes: ClassVar[dict[str, str]] = {"POST": MANAGE}

    async def post(self, name: str) -> None:
        """Revoke the agent's tokens and answer a new one; its tasks and servers go on."""
        seconds = self.body(TokenRequest).expires_in_seconds
        self.answer(await self.registry.rotate(name, self.principal.name, seconds), 201)


class SuspendHandler(RegistryHandler):
    """An agent's suspension."""

    scopes: ClassVar[dict[str, str]] = {"POST": MANAGE}

    async def post(self, name: str) -> None:
        """Stop the agent's servers, revoke its tokens, and hold its tasks."""
        reason = self.body(SuspendRequest).reason
        await self.answer_view(await self.registry.suspend(name, self.principal.name, reason))


class ResumeHandler(RegistryHandler):
    """The end of a suspension."""

    scopes: ClassVar[dict[str, str]] = {"POST": MANAGE}

    async def post(self, name: str) -> None:
        """Let a suspended agent work again; it needs a new token."""
        self.body(NoOrder)
        await self.answer_view(await self.registry.resume(name, self.principal.name))


class RetireHandler(RegistryHandler):
    """The end of an agent."""

    scopes: ClassVar[dict[str, str]] = {"POST": MANAGE}

    async def post(self, name: str) -> None:
        """Stop the agent's servers, revoke its tokens, cancel its tasks, and delete its Hub user, for good."""
        request = self.body(RetireRequest)
        archive = request.workspace == "archive"
        await self.answer_view(await self.registry.retire(name, self.principal.name, request.reason, archive=archive))


#: Routes below the service's prefix.
ROUTES: list[tuple[Any, ...]] = [
    (API + r"agents", AgentsListHandler),
    (API + rf"agents/{NAME}", AgentHandler),
    (API + rf"agents/{NAME}/token", TokenHandler),
    (API + rf"agents/{NAME}/suspend", SuspendHandler),
    (API + rf"agents/{NAME}/resume", ResumeHandler),
    (API + rf"agents/{NAME}/retire", RetireHandler),
    (API + r"openapi\.json", DescriptionHandler),
]
