"""``agentfarm tasks``: the tasks of agents, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Integer, List, Unicode

from ..errors import RunFailed
from ..terminal.output import clean
from ..terminal.parsing import Parsed
from ..terminal.progress import bars
from ..terminal.quantities import UNKNOWN, age, duration, size
from ..terminal.task_following import TaskFollower, change_line, error_lines, task_summary
from .agents import AgentsCommand
from .command import Command

if TYPE_CHECKING:
    from ..agents.client import AgentsClient

_CLI = "jupyterhub_agentfarm.cli"
_COLUMNS = ("ID", "NAME", "AGENT", "STATE", "WHY", "ATTEMPT", "PRIORITY", "AGE", "TOOK")
_PAGE = 1000


class Tasks(Parsed):
    """Notebooks that agents have executed on the farm."""

    command = "agentfarm tasks"
    description = "Notebooks that agents have executed on the farm, although nodes die."
    subcommands = {
        "submit": (f"{_CLI}.task_submission.Submit", "Submit a notebook, and follow it if asked to"),
        "list": (f"{_CLI}.tasks.ListTasks", "List tasks, the newest first"),
        "show": (f"{_CLI}.tasks.ShowTask", "Show one task, its attempts and artifacts"),
        "logs": (f"{_CLI}.tasks.Logs", "Write every change of a task, and what happens next if asked to"),
        "cancel": (f"{_CLI}.task_orders.Cancel", "End a task"),
        "retry": (f"{_CLI}.task_orders.Retry", "Allow a cancelled or discarded task one more attempt"),
        "hand-over": (f"{_CLI}.task_orders.HandOverTask", "Have an agent of yours take a task, or offer it"),
        "notebook": (f"{_CLI}.task_orders.FetchNotebook", "Write the notebook of a task"),
        "artifacts": (f"{_CLI}.task_orders.Artifacts", "List the files that a task left, or write them"),
    }


class ListTasks(AgentsCommand):
    """List tasks."""

    command = "agentfarm tasks list"
    description = "List the tasks that you may see, the newest first."
    examples = "  agentfarm tasks list --state executing --state retryable\n  agentfarm tasks list --agent scout --json"
    state = List(Unicode(), help="Only tasks in this state; repeatable.").tag(config=True)
    agent = Unicode("", help="Only tasks of this agent.").tag(config=True)
    project = Unicode("", help="Only tasks of this project.").tag(config=True)
    task_name = Unicode("", help="Only tasks whose name has this in it.").tag(config=True)
    limit = Integer(100, min=1, help="At most so many.").tag(config=True)
    aliases = {
        **Command.aliases,
        "state": "ListTasks.state",
        "agent": "ListTasks.agent",
        "project": "ListTasks.project",
        "name": "ListTasks.task_name",
        "limit": "ListTasks.limit",
    }

    async def run(self) -> None:
        """Ask the service and write the list."""
        async with self.service() as service:
            tasks = await self._ask(service)
        if self.json:
            self.output.json({"tasks": tasks})
            return
        now = time.time()
        rows = [_row(task, now) for task in tasks]
        self.output.table(_COLUMNS, rows, "There are no such tasks: make one with `agentfarm tasks submit`.")

    async def _ask(self, service: AgentsClient) -> list[dict[str, Any]]:
        """Return as many tasks as were asked for, page by page."""
        wanted = {"state": self.state, "agent": self.agent, "project": self.project, "name": self.task_name}
        tasks: list[dict[str, Any]] = []
        cursor = None
        while len(tasks) < self.limit:
            page = await service.tasks(**wanted, cursor=cursor, limit=min(_PAGE, self.limit - len(tasks)))
            tasks += page["tasks"]
            cursor = page["cursor"]
            if cursor is None:
                break
        return tasks


class ShowTask(AgentsCommand):
    """Show one task."""

    command = "agentfarm tasks show"
    description = "Show one task: its state and why, its attempts, where its notebook failed, and what it left."
    positionals = ("TASK",)

    async def run(self) -> None:
        """Ask the service and write what it knows."""
        async with self.service() as service:
            task = await service.task(self.extra_args[0])
        if self.json:
            self.output.json(task)
            return
        now = time.time()
        self.output.fields(_fields(task, now))
        if task["attempts"]:
            self.output.line("")
            rows = [_attempt_row(attempt, now) for attempt in task["attempts"]]
            self.output.table(("ATTEMPT", "NODE", "PHASE", "OUTCOME", "TOOK", "SERVER", "DETAIL"), rows, "")
        for line in error_lines(task):
            self.output.line(f"  {line}")


class Logs(AgentsCommand):
    """Write the changes of a task."""

    command = "agentfarm tasks logs"
    description = "Write every change of a task, with its time and reason."
    positionals = ("TASK",)
    follow = Bool(False, help="Go on until the task has ended; the exit status tells how.").tag(config=True)
    flags = {
        **Command.flags,
        "follow": ({"Logs": {"follow": True}}, "Go on until the task has ended; the exit status tells how."),
    }

    async def run(self) -> None:
        """Ask the service and write what happened.

        Raises
        ------
        RunFailed
            The task was followed, and did not end well.
        """
        async with self.service() as service:
            task = await service.task(self.extra_args[0])
            if self.follow and not self.json:
                ended(await follow(self, service, task["id"], self.output.line))
                return
        if self.json:
            self.output.json({"changes": task["changes"]})
            return
        for change in task["changes"]:
            self.output.line(change_line(change))


async def follow(command: AgentsCommand, service: AgentsClient, task_id: str, say: Any = None) -> dict[str, Any]:
    """Show a task's changes and progress until it has ended, and return it; a stream that ends early begins anew."""
    with bars(command.output) as progress:
        follower = TaskFollower(task_id, progress, say or progress.say)
        while True:
            task = await follower.follow(service.events(task_id, follower.after))
            if task is not None:
                return task


def ended(task: Mapping[str, Any]) -> None:
    """Refuse a task that did not end well.

    Raises
    ------
    RunFailed
        It was cancelled or discarded.
    """
    if task["state"] != "completed":
        raise RunFailed(": ".join([task_summary(task), *error_lines(task)[:1]]))


def _row(task: Mapping[str, Any], now: float) -> tuple[object, ...]:
    name = task["request"]["name"] or task["request"]["path"] or UNKNOWN
    why = task["ending"] or task["reason"]
    created = age(task["created_at"], now)
    return (task["id"], name, task["agent"], task["state"], why, task["attempt"], task["request"]["priority"], created,
            _took(task["started_at"], task["ended_at"], now))  # fmt: skip


def _fields(task: Mapping[str, Any], now: float) -> dict[str, object]:
    request = task["request"]
    progress = task["progress"]
    cells = f"{progress['cells_done']} of {progress['cells_total']} cells" if progress else UNKNOWN
    ending = f", is to end ({task['ending']})" if task["ending"] else ""
    return {
        "id": task["id"],
        "name": request["name"] or UNKNOWN,
        "agent": task["agent"],
        "state": f"{task['state']} ({task['reason']}){ending}",
        "detail": task["detail"] or UNKNOWN,
        "progress": cells,
        "attempts": f"{task['attempt']}, {task['failures']} of {task['allowed']} failed",
        "notebook": request["path"] or "submitted with it",
        "project": request["project"] or UNKNOWN,
        "assignee": task["assignee"] or UNKNOWN,
        "priority": request["priority"],
        "needs": ", ".join(request["after"]) or UNKNOWN,
        "submitted": f"{age(task['created_at'], now)} ago by {task['created_by']}",
        "took": _took(task["started_at"], task["ended_at"], now),
        "artifacts": ", ".join(artifact_text(each) for each in task["artifacts"]) or UNKNOWN,
    }


def artifact_text(artifact: Mapping[str, Any]) -> str:
    """Return an artifact's path and size."""
    return clean(f"{artifact['path']} ({size(artifact['size_bytes'])})")


def _attempt_row(attempt: Mapping[str, Any], now: float) -> tuple[object, ...]:
    took = _took(attempt["started_at"], attempt["ended_at"], now)
    node, outcome = attempt["node"] or UNKNOWN, attempt["outcome"] or UNKNOWN
    return (attempt["number"], node, attempt["phase"], outcome, took, attempt["server_name"], attempt["detail"])


def _took(started: float | None, ended_at: float | None, now: float) -> str:
    return UNKNOWN if started is None else duration(max(0.0, (ended_at or now) - started))
