"""Who sees and does what.

::

    the agent itself     sees itself and its own tasks, submits and cancels them
    its owner            the same for it
    members of a project of a task   see the task, and may take it over
    whom a task is offered to        the same
    who holds the scope  registry:read sees everything, registry:manage does everything

A thing that somebody may not see is answered like one that does not exist.
"""

from __future__ import annotations

from typing import Any

from tornado import web

from ..errors import NotFoundError
from ..services.handlers import Principal, ServiceHandler
from .models import Agent, Task

READ = "custom:agents:registry:read"
MANAGE = "custom:agents:registry:manage"
SUBMIT = "custom:agents:tasks:submit"


def manages(principal: Principal) -> bool:
    """Whether the principal may do everything here."""
    return principal.may(MANAGE)


def sees_all(principal: Principal) -> bool:
    """Whether the principal sees every agent and task."""
    return manages(principal) or principal.may(READ)


def acts_for(principal: Principal, agent: Agent) -> bool:
    """Whether the principal may submit, cancel and hand over the agent's tasks."""
    return manages(principal) or (principal.kind == "user" and principal.name in (agent.name, agent.owner))


def sees_agent(principal: Principal, agent: Agent) -> bool:
    """Whether the principal sees the agent."""
    return sees_all(principal) or acts_for(principal, agent)


def in_project(principal: Principal, project: str | None, own: Agent | None = None) -> bool:
    """Whether the principal is a member of `project`.

    Parameters
    ----------
    own
        The registered agent that the principal is, if it is one: its projects count beside the Hub's groups.
    """
    if project is None or principal.kind != "user":
        return False
    return project in principal.groups or (own is not None and project in own.projects)


def sees_task(principal: Principal, task: Task, agent: Agent, own: Agent | None = None) -> bool:
    """Whether the principal sees the task of `agent`."""
    mine = principal.kind == "user" and principal.name in (task.created_by, task.assignee)
    return mine or sees_agent(principal, agent) or in_project(principal, task.request.project, own)


def author(principal: Principal) -> str:
    """Return who a task is from: a user's name, or what no user can be called, for a user's name has no slash."""
    return principal.name if principal.kind == "user" else f"{principal.kind}/{principal.name}"


def unknown_agent(name: str) -> NotFoundError:
    """Return what is said of an agent that does not exist, or that may not be seen."""
    return NotFoundError(f"there is no agent {name!r}")


class AgentsHandler(ServiceHandler):
    """A handler of this service: an agent that is not active is refused, whatever token it shows.

    A token that was revoked is remembered as good for some seconds by whoever checked it; the registry knows better.
    """

    #: The registered agent that makes the request; None: somebody else does.
    own: Agent | None = None

    async def prepare(self) -> None:
        """Identify who asks; refuse who may not, and agents that are suspended or retired."""
        await super().prepare()
        if not self._finished and hasattr(self, "principal"):
            self.own = admit(self.service.registry, self.principal)


def admit(registry: Any, principal: Principal) -> Agent | None:
    """Return the registered agent that `principal` is, and note that it was seen; None: it is none.

    Raises
    ------
    tornado.web.HTTPError
        It is an agent that is not active.
    """
    own: Agent | None = registry.find(principal.name) if principal.kind == "user" else None
    if own is None:
        return None
    if own.state != "active":
        raise web.HTTPError(403, f"the agent {own.name} is {own.state}" + (f": {own.detail}" if own.detail else ""))
    registry.seen(own.name)
    return own
