"""``agentfarm tasks submit``: a notebook becomes a task."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from traitlets import Bool, Dict, Float, Integer, List, Unicode

from ..errors import ConfigError, InvalidField
from ..terminal.parsing import UsageError
from ..terminal.task_following import task_summary
from ..traitlets import Seconds, parse_seconds
from .agents import AgentsCommand
from .command import Command
from .tasks import ended, follow


class Submit(AgentsCommand):
    """Submit a task."""

    command = "agentfarm tasks submit"
    description = (
        "Submit a notebook, which is executed on the node that suits it best, and elsewhere when that node dies. "
        "The notebook is a file here, or with --path one in the agent's workspace."
    )
    examples = (
        "  agentfarm tasks submit train.ipynb --agent scout --param epochs=5 --gpus 1 --follow\n"
        "  agentfarm tasks submit --path reports/weekly.ipynb --agent scout --not-before 2h --priority -10"
    )
    positionals = ("[NOTEBOOK]",)
    path = Unicode("", help="A notebook in the agent's workspace, instead of a file here.").tag(config=True)
    agent = Unicode("", help="The agent that is to do it. Default: whoever the token is of.").tag(config=True)
    task_name = Unicode("", help="A name for people. Default: that of the file.").tag(config=True)
    param = Dict(
        per_key_traits={}, value_trait=Unicode(), help="A parameter, as key=value; JSON, or else text; repeatable."
    ).tag(config=True)
    gpus = Integer(0, help="GPUs that it needs.").tag(config=True)
    label = Dict(
        per_key_traits={}, value_trait=Unicode(), help="A label that its node must have, as key=value; repeatable."
    ).tag(config=True)
    kernel = Unicode("", help="The kernel, as in ir. Default: the one that the notebook names.").tag(config=True)
    cpus = Float(0.0, help="Cores that must be free on its node.").tag(config=True)
    priority = Integer(0, help="Higher goes first, -100 to 100.").tag(config=True)
    timeout = Seconds(3600.0, help="Limit of each attempt, as in 90m.").tag(config=True)
    max_attempts = Integer(3, help="Attempts that the farm may fail.").tag(config=True)
    after = List(Unicode(), help="A task that must be completed before; repeatable.").tag(config=True)
    not_before = Unicode("", help="Start after this long, as in 2h, or at this time (seconds since 1970).").tag(
        config=True
    )
    project = Unicode("", help="Project whose members see the task.").tag(config=True)
    key = Unicode("", help="The same key of the same agent is the same task, however often it is sent.").tag(
        config=True
    )
    retry_errors = Bool(False, help="Try again also after an error of the notebook's own.").tag(config=True)
    follow = Bool(False, help="Show progress until it has ended; the exit status tells how.").tag(config=True)

    aliases = {
        **Command.aliases,
        "path": "Submit.path",
        "agent": "Submit.agent",
        "name": "Submit.task_name",
        "param": "Submit.param",
        "gpus": "Submit.gpus",
        "label": "Submit.label",
        "kernel": "Submit.kernel",
        "cpus": "Submit.cpus",
        "priority": "Submit.priority",
        "timeout": "Submit.timeout",
        "max-attempts": "Submit.max_attempts",
        "after": "Submit.after",
        "not-before": "Submit.not_before",
        "project": "Submit.project",
        "key": "Submit.key",
    }
    flags = {
        **Command.flags,
        "retry-errors": (
            {"Submit": {"retry_errors": True}},
            "Try again also after an error of the notebook's own.",
        ),
        "follow": ({"Submit": {"follow": True}}, "Show progress until it has ended; the exit status tells how."),
    }

    async def run(self) -> None:
        """Submit the task, and follow it if asked to.

        Raises
        ------
        RunFailed
            The task was followed, and did not end well.
        """
        request = self._request()
        async with self.service() as service:
            task = await service.submit(request)
            if self.follow:
                self.output.note(f"task {task['id']}; Ctrl-C stops watching, not the task")
                task = await follow(self, service, task["id"])
        if self.json:
            self.output.json(task)
        else:
            self.output.line(task_summary(task) if self.follow else str(task["id"]))
        if self.follow:
            ended(task)

    def _request(self) -> dict[str, Any]:
        """Return the request's fields."""
        name = self.argument(0)
        if (name is None) == (not self.path):
            raise UsageError("give a NOTEBOOK here or --path of one in the workspace, and not both", self.command)
        options = {"gpus": self.gpus, "labels": self.label, "kernel": self.kernel, "cpus": self.cpus}
        request: dict[str, Any] = {
            "agent": self.agent or None,
            "name": self.task_name or (Path(name).stem if name else ""),
            "parameters": {key: parameter(value) for key, value in self.param.items()},
            "options": options,
            "priority": self.priority,
            "timeout_seconds": self.timeout,
            "max_attempts": self.max_attempts,
            "retry_errors": self.retry_errors,
            "not_before_at": not_before(self.not_before, time.time()),
            "idempotency_key": self.key or None,
            "after": self.after,
            "project": self.project or None,
        }
        return request | ({"path": self.path} if name is None else {"notebook": read_notebook(Path(name))})


def parameter(text: str) -> Any:
    """Return the value of a parameter: what it is as JSON, or else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def not_before(text: str, now: float) -> float | None:
    """Return a time: seconds since the epoch, or a duration from `now` on.

    Raises
    ------
    InvalidField
        It is neither.
    """
    if not text:
        return None
    try:
        seconds = parse_seconds(text)
    except ValueError as exc:
        raise InvalidField("--not-before", "a duration such as 2h, or seconds since 1970", text) from exc
    return seconds if text.strip().isdigit() and seconds > 1e9 else now + seconds


def read_notebook(path: Path) -> Any:
    """Return a file's JSON.

    Raises
    ------
    ConfigError
        It cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise ConfigError(f"{path} is no notebook: it is not JSON") from exc
