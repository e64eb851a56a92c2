"""The steps that decide what is kept of tasks: see :mod:`.steps`."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import NoSpace, QuotaExceeded
from ..models import Artifact, Attempt
from .tables import Tables, Why


@dataclass(frozen=True)
class ArtifactLimits:
    """The most that is kept of an attempt's files, and of those of all the agent's tasks."""

    count: int
    size_bytes: int
    #: Of all the agent's tasks; 0: without bound.
    agent_bytes: int = 0


class KeptTooMuch(QuotaExceeded):
    """More would be kept of an agent's tasks than may be."""

    def __init__(self, agent: str, used_bytes: int, most_bytes: int, more_bytes: int) -> None:
        self.lacking_bytes = used_bytes + more_bytes - most_bytes
        super().__init__(
            f"{gib(used_bytes)} of notebooks and files are kept of the tasks of {agent}, which may have "
            f"{gib(most_bytes)}: delete tasks that have ended and are not needed, or have an admin raise "
            "TaskBook.max_agent_bytes",
            {"quota": "kept_bytes", "used": used_bytes, "limit": most_bytes},
        )


def check_kept(tables: Tables, agent: str, most_bytes: int, more_bytes: int) -> None:
    """Refuse what would be more than is kept of an agent's tasks."""
    used = tables.kept_of_agent(agent)
    if most_bytes and used + more_bytes > most_bytes:
        raise KeptTooMuch(agent, used, most_bytes, more_bytes)


def gib(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / 2**30:.3g} GiB"


def add_artifact(tables: Tables, attempt: Attempt, artifact: Artifact, most: ArtifactLimits) -> None:
    """Keep what is known of an artifact."""
    if (artifact.task, artifact.attempt) != (attempt.task, attempt.number):
        raise ValueError(f"{artifact} is not of attempt {attempt.number} of task {attempt.task}")
    agent = tables.current(attempt).agent
    tables.add_artifact(artifact, agent)
    check_kept(tables, agent, most.agent_bytes, 0)
    count, size = tables.artifacts_of(attempt)
    if count > most.count or size > most.size_bytes:
        raise NoSpace(f"attempt {attempt.number} of task {attempt.task} has left more than the {most.count} files, "
                      f"or {most.size_bytes} bytes in them, that are kept")  # fmt: skip


def tidy(tables: Tables, task_id: str, why: str) -> int:
    """Forget the artifacts of a task that has ended, and say so; return their bytes."""
    task = tables.task(task_id)
    if not task.ended:
        return 0
    tables.change(task, Why("tidied", why))
    return tables.drop_artifacts(task)


def keep_notebook(tables: Tables, attempt: Attempt, size_bytes: int) -> None:
    """Note how large the notebook is that an attempt has executed so far."""
    tables.set_notebook(tables.current(attempt), size_bytes)
