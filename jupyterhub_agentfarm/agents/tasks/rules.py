"""What an agent's tasks may ask for, and to whom tasks may be handed over."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from ...errors import ConflictError, HubApiError, InvalidField, NotFoundError
from ...models import UserOptions
from ...services.handlers import Principal
from ..access import in_project, manages
from ..models import MAX_PRIORITY, Agent, Task
from .intake import Submitted


def check_request(submitted: Submitted, agent: Agent, principal: Principal, own: Agent | None) -> None:
    """Refuse what the agent, or whoever asks for it, may not have.

    Raises
    ------
    InvalidField
        A field asks for more than the agent's registration allows.
    ConflictError
        The agent is not active.
    """
    request = submitted.request
    if agent.state != "active":
        raise ConflictError(f"the agent {agent.name} is {agent.state}: it takes no tasks")
    if request.priority > 0 and request.priority > most_priority(principal, agent):
        raise InvalidField("priority", "at most 0: only the agent's owner and those who manage agents may ask for more",
                           request.priority)  # fmt: skip
    _check_options(request.options, submitted.kernel, agent)
    project = request.project
    if not (project is None or project in agent.projects or in_project(principal, project, own)):
        raise InvalidField("project", "a project of the agent or of yours", project)


def _check_options(options: UserOptions, named: str, agent: Agent) -> None:
    """Refuse options that the agent may not have; `named` is the kernel that the notebook names."""
    for name, value in agent.labels.items():
        if options.labels.get(name, value) != value:
            raise InvalidField(f"options.labels.{name}", f"{value!r} or absent: the agent runs there only",
                               options.labels[name])  # fmt: skip
    if options.gpus > agent.limits.gpus:
        raise InvalidField("options.gpus", f"at most {agent.limits.gpus}, the limit of the agent", options.gpus)
    kernel = options.kernel or named
    if agent.kernels and kernel and kernel not in agent.kernels:
        where = "options.kernel" if options.kernel else "notebook.metadata.kernelspec.name"
        raise InvalidField(where, f"one of the agent's kernels, {', '.join(agent.kernels)}", kernel)


def check_task_id(task_id: str, where: str) -> str:
    """Return an id.

    Raises
    ------
    InvalidField
        It is none that a task can have.
    """
    if not re.fullmatch("[0-9a-f]{16}", task_id):
        raise InvalidField(where, "the id of a task, which has 16 hex digits", task_id)
    return task_id


async def check_dependencies(
    after: tuple[str, ...],
    agent: Agent,
    task_of: Callable[[str], Awaitable[Task]],
    seen: Callable[[Task], bool],
) -> None:
    """Refuse dependencies that do not exist, or that neither belong to the agent nor may be seen.

    Raises
    ------
    InvalidField
        One of them is such.
    """
    for task_id in after:
        check_task_id(task_id, "after")
        task: Task | None
        try:
            task = await task_of(task_id)
        except NotFoundError:
            task = None  # said like that one may not be seen
        if task is None or not (task.agent == agent.name or seen(task)):
            raise InvalidField("after", "ids of tasks that exist", task_id)


def check_taker(task: Task, giver: Agent, taker: Agent, principal: Principal) -> None:
    """Refuse an agent that a task may neither be offered to nor be taken over by.

    Raises
    ------
    InvalidField
        It is neither of the same owner nor in the task's project, and the task was not offered to it, or it is not
        active.
    """
    if taker.state != "active":
        raise InvalidField("to", "an active agent", taker.name)
    shared = task.request.project is not None and task.request.project in taker.projects
    same = giver.owner != "" and giver.owner == taker.owner
    offered = task.assignee == taker.name
    if not (shared or same or offered or manages(principal)):
        raise InvalidField("to", "an agent of the same owner, or of the task's project", taker.name)


def most_priority(principal: Principal, taker: Agent) -> int:
    """Return the highest priority that the principal may give a task of the agent."""
    owns = principal.kind == "user" and principal.name == taker.owner
    return MAX_PRIORITY if manages(principal) or owns else 0


def check_needs(task: Task, taker: Agent) -> None:
    """Refuse an agent that may not have what the task needs.

    Raises
    ------
    InvalidField
        It may not.
    """
    _check_options(task.request.options, task.kernel, taker)


async def check_person(name: str, task: Task, giver: Agent, principal: Principal, hub: Any) -> None:
    """Refuse a person who is neither the agent's owner, nor who asks, nor a member of the task's project.

    Raises
    ------
    InvalidField
        The name is such a person's, or nobody's.
    """
    if name == giver.owner or (principal.kind == "user" and name == principal.name):
        return
    project = task.request.project
    try:
        model = await hub.find(name)
    except HubApiError:
        model = None
    if model is None or not (manages(principal) or (project is not None and project in model.get("groups", ()))):
        raise InvalidField("to", "the agent's owner, a member of the task's project, or an agent", name)


__all__ = [
    "check_dependencies",
    "check_needs",
    "check_person",
    "check_request",
    "check_taker",
    "check_task_id",
    "most_priority",
]
