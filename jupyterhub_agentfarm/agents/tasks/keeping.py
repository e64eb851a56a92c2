"""KeptTasks: the notebooks and artifacts of tasks: what of them is kept, how much, and for how long.

What a task leaves is kept until some time after its end, or until the agent's newer work needs the room: then the
artifacts of the tasks that ended first go. Where that is not enough, no new task is taken, and a file that an attempt
left is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Concatenate, ParamSpec, TypeVar

from traitlets import Integer

from ...errors import AgentFarmError, ConflictError
from ...traitlets import ByteSize, Seconds
from ..models import Artifact, Attempt
from . import keeping_steps as steps
from .files import Received, TaskFiles
from .keeping_steps import KeptTooMuch
from .records import TaskRecords
from .tables import Tables

P = ParamSpec("P")
T = TypeVar("T")

#: How often tasks are looked for that were kept long enough, in seconds.
_FORGET_SECONDS = 3600.0


class KeptTasks(TaskRecords):
    """Tasks with the files that are kept of them.

    Nothing is kept of an attempt that is over: that raises `Fenced`.
    """

    keep = Seconds(
        30 * 86400.0,
        help="How long a task is kept after its end, with its notebook and artifacts, in seconds or as '30d'. Longer: "
        "results wait for those who come late; shorter: disk space is free earlier. A task that another one still "
        "needs is kept in any case.",
    ).tag(config=True)
    max_artifacts = Integer(
        1000,
        min=0,
        help="How many files are kept of an attempt. More: views of a task become slow.",
    ).tag(config=True)
    max_artifacts_bytes = ByteSize(
        4 * 2**30,
        help="How much is kept of the files of an attempt, in bytes or as '4G'. Larger lets whoever submits tasks fill "
        "more of the disk.",
    ).tag(config=True)
    max_agent_bytes = ByteSize(
        20 * 2**30,
        help="How much is kept of the notebooks and files of all tasks of an agent, in bytes or as '20G'. What would "
        "be more takes the place of the files of the agent's tasks that ended first; where that is not enough, new "
        "tasks are refused and new files left out. Larger: older results wait longer for those who come late; smaller: "
        "the disk serves more agents. 0: without bound.",
    ).tag(config=True)

    files: TaskFiles
    _clock: Callable[[], float]
    _keeping: set[asyncio.Task[None]]

    @property
    def max_notebook(self) -> int:
        """Largest notebook that is kept, in bytes."""
        return int(self.files.max_notebook)

    # ---- for how long ----

    async def _forget_by_and_by(self) -> None:
        while True:
            try:
                await self.forget(self._clock() - self.keep)
            except AgentFarmError as exc:
                self.log.warning("old tasks are forgotten later: %s", exc.message)
            await asyncio.sleep(_FORGET_SECONDS)

    async def forget(self, before: float) -> int:
        """Forget the tasks that ended before this time, with their files; return how many there were."""
        count = 0
        while some := await self._store.old(before):
            count += len(await self._forget(some))
        return count

    async def remove(self, task_id: str) -> None:
        """Forget a task that has ended, with its files.

        Raises
        ------
        NotFoundError
            There is no such task.
        ConflictError
            It has not ended, or another task still needs it.
        """
        task = await self.task(task_id)
        if not await self._forget([task_id]):
            why = "another task needs it" if task.ended else f"it is {task.state}: cancel it first"
            raise ConflictError(f"task {task_id} cannot be deleted: {why}")

    async def _forget(self, some: list[str]) -> set[str]:
        await self.files.mark(some)
        forgotten = await self._store.forget(some)
        for task_id in some:
            await (self.files.forget(task_id) if task_id in forgotten else self.files.settle(task_id))
        return forgotten

    # ---- how much ----

    async def _with_room(self, agent: str, step: Callable[[Tables], T]) -> T:
        """Return what a step returns after which more may be kept of an agent's tasks; older files give way to it.

        Raises
        ------
        QuotaExceeded
            Too much is kept, and there is nothing that could give way.
        """
        try:
            return await self._store.do(step)
        except KeptTooMuch as exc:
            if not await self._make_room(agent, exc.lacking_bytes):
                raise
        return await self._store.do(step)

    async def _make_room(self, agent: str, lacking_bytes: int) -> bool:
        """Remove artifacts of tasks that have ended, the oldest first; return False where these are not enough."""
        found = await self._store.with_artifacts(agent)
        if sum(size for _, size in found) < lacking_bytes:
            return False
        why = f"its files made room: no more than {steps.gib(self.max_agent_bytes)} are kept of the tasks of {agent}"
        for task_id, _ in found:
            if lacking_bytes <= 0:
                break
            lacking_bytes -= await self._do(steps.tidy, task_id, why)
            await self.files.forget_artifacts(task_id)
        return True

    # ---- what an attempt leaves ----

    async def keep_notebook(self, attempt: Attempt, notebook: bytes) -> None:
        """Keep the notebook as the attempt has executed it so far.

        Raises
        ------
        Fenced
            The attempt is over.
        NoSpace
            It cannot be kept.
        """
        await self._store.check_current(attempt)
        await self.files.save_executed(attempt, notebook)
        await self._do(steps.keep_notebook, attempt, len(notebook))

    async def keep_artifact(self, attempt: Attempt, path: str, content: AsyncIterator[bytes]) -> Artifact:
        """Keep a file that the attempt left, as it comes in; return what it is.

        Raises
        ------
        Fenced
            The attempt is over.
        InvalidField
            The path is none that is kept.
        NoSpace
            It cannot be kept.
        QuotaExceeded
            Too much is kept of the agent's tasks.
        """
        await self._store.check_current(attempt)
        received = await self.files.receive(attempt, path, content)
        # Not one of the two without the other, whatever becomes of who waits.
        keeping = asyncio.create_task(self._keep(attempt, received), name=f"keeping {path}")
        self._keeping.add(keeping)
        keeping.add_done_callback(self._kept)
        await asyncio.shield(keeping)
        return received.artifact

    async def _keep(self, attempt: Attempt, received: Received) -> None:
        try:
            await self.add_artifact(attempt, received.artifact)
        except BaseException:
            await self.files.drop(received)
            raise
        await self.files.keep(received)

    def _kept(self, keeping: asyncio.Task[None]) -> None:
        self._keeping.discard(keeping)
        if not keeping.cancelled():
            keeping.exception()  # it is for who waits, if anybody does

    async def add_artifact(self, attempt: Attempt, artifact: Artifact) -> None:
        """Keep what is known of a file that the attempt left; one of the same path is replaced.

        Raises
        ------
        Fenced
            The attempt is over.
        NoSpace
            It has left too many files, or too much in them.
        QuotaExceeded
            Too much is kept of the agent's tasks.
        """
        most = steps.ArtifactLimits(self.max_artifacts, self.max_artifacts_bytes, self.max_agent_bytes)
        await self._with_room(attempt.agent, lambda tables: steps.add_artifact(tables, attempt, artifact, most))

    async def _do(self, step: Callable[Concatenate[Tables, P], T], *asked: P.args, **options: P.kwargs) -> T:
        return await self._store.do(lambda tables: step(tables, *asked, **options))
