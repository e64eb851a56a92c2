"""Whatever is asked of tasks, in whatever order, with kills in between: none is lost, none runs twice at a time."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from task_books import NOTEBOOK, Clock, World, emptied, opened

from jupyterhub_agentfarm.agents.models import FINAL_STATES, Attempt, Task, TaskReason
from jupyterhub_agentfarm.agents.tasks.states import NEXT, OUTCOMES
from jupyterhub_agentfarm.errors import ConflictError, Fenced

T = TypeVar("T")
AGENTS = ("bot", "other")


class TaskMachine(RuleBasedStateMachine):
    """A book of tasks, and what must be true of it."""

    tasks = Bundle("tasks")
    attempts = Bundle("attempts")
    make_url: Callable[[Path], str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.folder = Path(self.directory.name)
        self.url = type(self).make_url(self.folder)
        self.clock = Clock()
        self.known: dict[str, Task] = {}
        self.fences: list[int] = []
        self.current: dict[str, Attempt] = {}
        self.artifacts: set[tuple[str, int]] = set()
        self.reopen()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the book answers."""
        return self.loop.run_until_complete(work)

    def reopen(self) -> None:
        """Open the book; the one before is left as a killed service leaves it."""
        self.stack = AsyncExitStack()
        self.world: World = self.run(self.stack.enter_async_context(opened(self.url, self.folder, self.clock)))

    def teardown(self) -> None:
        """Close the book."""
        self.run(self.stack.aclose())
        self.loop.close()
        self.directory.cleanup()

    # ---- what happens ----

    @rule(
        target=tasks,
        agent=st.sampled_from(AGENTS),
        after=st.lists(tasks, max_size=2),
        delay=st.sampled_from([None, 5.0, 50.0]),
        most=st.integers(1, 3),
        key=st.sampled_from([None, "k"]),
        retry_errors=st.booleans(),
    )
    def submit(
        self, agent: str, after: list[str], delay: float | None, most: int, key: str | None, retry_errors: bool
    ) -> str:
        """Submit a task, or the same one again."""
        not_before = None if delay is None else self.clock.now + delay
        request: dict[str, Any] = {"after": tuple(after), "not_before_at": not_before, "max_attempts": most}
        if key is not None:
            request = {"idempotency_key": key}
        task = self.run(self.world.submit(agent, retry_errors=retry_errors and key is None, **request))
        self.known.setdefault(task.id, task)
        return task.id

    @rule(seconds=st.sampled_from([0.0, 5.0, 60.0]))
    def promote(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.now += seconds
        due = self.run(self.world.book.promote(self.clock.now))
        assert due is None or due > self.clock.now

    @rule(target=attempts, number=st.integers(0, 3))
    def claim_available(self, number: int) -> Attempt | None:
        """Claim one of the tasks that may be claimed; it begins with all that it needs completed."""
        available = self.run(self.world.book.available())
        if not available:
            return None
        task, attempt = self.run(self.world.book.claim(available[number % len(available)].id))
        needed = [self.run(self.world.book.task(other)).state for other in task.request.after]
        assert set(needed) <= {"completed"}
        assert task.id not in self.current
        assert not self.fences or attempt.fence > max(self.fences)
        self.fences.append(attempt.fence)
        self.current[task.id] = attempt
        return attempt

    @rule(task_id=tasks)
    def claim_any(self, task_id: str) -> None:
        """Claim a task that is not available: it is refused."""
        if self.run(self.world.book.task(task_id)).state == "available":
            return
        with pytest.raises(ConflictError):
            self.run(self.world.book.claim(task_id))

    @rule(attempt=attempts, outcome=st.sampled_from(sorted(OUTCOMES)), pause=st.sampled_from([0.0, 10.0]))
    def finish(self, attempt: Attempt | None, outcome: TaskReason, pause: float) -> None:
        """End an attempt: the current one of its task, or an older one, which is refused."""
        if attempt is None:
            return
        if not self.is_current(attempt):
            with pytest.raises(Fenced):
                self.run(self.world.book.finish(attempt, outcome))
            return
        self.run(self.world.book.finish(attempt, outcome, pause_seconds=pause))
        del self.current[attempt.task]

    @rule(attempt=attempts)
    def leave_artifact(self, attempt: Attempt | None) -> None:
        """Leave a file, which is kept of a current attempt only."""
        if attempt is None:
            return
        if self.is_current(attempt):
            self.run(self.world.book.keep_artifact(attempt, "a.txt", pieces()))
            self.artifacts.add((attempt.task, attempt.number))
            return
        with pytest.raises(Fenced):
            self.run(self.world.book.keep_artifact(attempt, "a.txt", pieces()))

    @rule(task_id=tasks, what=st.sampled_from(["cancel", "retry"]))
    def ask(self, task_id: str, what: str) -> None:
        """Cancel a task, or ask for one more attempt."""
        try:
            self.run(getattr(self.world.book, what)(task_id, "ada"))
        except ConflictError:
            assert self.run(self.world.book.task(task_id)) == self.known[task_id]

    @rule(agent=st.sampled_from(AGENTS), reason=st.sampled_from(["agent_suspended", "agent_retired"]))
    def hold(self, agent: str, reason: TaskReason) -> None:
        """Suspend or retire an agent."""
        self.run(self.world.book.hold(agent, reason))

    @precondition(lambda self: self.known)
    @rule()
    def crash(self) -> None:
        """Kill the service and start it again: it finds the attempts that go on."""
        self.run(self.stack.aclose())
        self.reopen()

    def is_current(self, attempt: Attempt) -> bool:
        """Whether the attempt goes on."""
        current = self.current.get(attempt.task)
        return current is not None and current.fence == attempt.fence

    # ---- what is true ----

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every task is there, and came into its state on an allowed way."""
        for task_id, before in self.known.items():
            now = self.run(self.world.book.task(task_id))
            assert now.attempt >= before.attempt
            self.follow(before, now)
            self.known[task_id] = now

    def follow(self, before: Task, now: Task) -> None:
        """Check the way that a task took; every step of it is a change with a reason."""
        states = [change.state for change in self.run(self.world.book.changes(before.id))]
        assert states[-1] == now.state
        for one, next_one in itertools.pairwise(states):
            assert one == next_one or next_one in NEXT[one]
        if before.state in FINAL_STATES and now.state != before.state:
            assert before.state != "completed"
            assert "retried" in {change.reason for change in self.run(self.world.book.changes(before.id))}

    @invariant()
    def one_attempt_at_a_time(self) -> None:
        """The attempts that go on are those of the executing tasks, one each."""
        executing = self.run(self.world.book.executing())
        assert {task.id: attempt.fence for task, attempt in executing} == {
            task_id: attempt.fence for task_id, attempt in self.current.items()
        }
        assert all(task.state == "executing" and task.attempt == attempt.number for task, attempt in executing)
        assert sum(task.state == "executing" for task in self.known.values()) == len(executing)

    @invariant()
    def what_is_kept_is_counted(self) -> None:
        """The bytes that are counted of an agent are those of its tasks' notebooks and artifacts."""
        counted = self.run(self.world.book.kept_bytes_by_agent())
        there = dict.fromkeys(AGENTS, 0)
        for task in self.known.values():
            artifacts = self.run(self.world.book.artifacts(task.id))
            there[task.agent] += len(NOTEBOOK) + sum(each.size_bytes for each in artifacts)
        assert {agent: counted.get(agent, 0) for agent in AGENTS} == there

    @invariant()
    def artifacts_are_of_attempts_that_left_them_in_time(self) -> None:
        """There is none of an attempt that was over."""
        for task_id in self.known:
            kept = {(each.task, each.attempt) for each in self.run(self.world.book.artifacts(task_id))}
            assert kept == {each for each in self.artifacts if each[0] == task_id}


async def pieces() -> Any:
    """Give the content of a file."""
    yield b"a"
    yield b"b"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_task_is_lost_and_none_executes_twice(kind: str, request: pytest.FixtureRequest) -> None:
    """Submissions, claims, ends, cancellations, retries, suspensions and crashes in any order keep the promises."""

    class Machine(TaskMachine):
        @staticmethod
        def make_url(folder: Path) -> str:
            if kind == "sqlite":
                return f"sqlite:///{folder / 'agents.sqlite'}"
            return emptied(request.getfixturevalue("postgres_url"))

    examples, steps = (30, 30) if kind == "sqlite" else (6, 25)
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks
        ),
    )
