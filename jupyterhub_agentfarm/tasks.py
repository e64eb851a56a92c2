"""Owned tasks: each is kept until it is done, its fault is logged, and all end with their owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class OwnedTasks:
    """The tasks of one owner.

    Parameters
    ----------
    log
        Where a failure is written.
    """

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()
        self._single: dict[str, asyncio.Task[Any]] = {}

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Return the task that does `work`."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self.report)
        return task

    def start_single(
        self,
        work: Coroutine[Any, Any, Any],
        name: str,
        *,
        replace: bool = False,
        on_fault: Callable[[], object] | None = None,
    ) -> None:
        """Do `work` unless a single task of this name goes on; with `replace` that one is cancelled instead.

        Parameters
        ----------
        work
            What is done.
        name
            Of the task; there is one of a name at a time.
        replace
            Whether one that goes on makes way.
        on_fault
            Called when the work failed, but not when it was cancelled.
        """
        running = self._single.get(name)
        if running is not None and not running.done():
            if not replace:
                work.close()
                return
            running.cancel()
        task = self._single[name] = self.start(work, name)
        task.add_done_callback(self._single_ended)
        if on_fault is not None:
            task.add_done_callback(lambda done: None if done.cancelled() or not done.exception() else on_fault())

    def report(self, task: asyncio.Task[Any]) -> None:
        """Log how `task` failed; removed from a task whose failure somebody else takes."""
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._log.error("%s failed: %s", task.get_name(), exc, exc_info=exc)

    def named(self, prefix: str) -> list[asyncio.Task[Any]]:
        """Return the tasks that are not done and whose name begins with `prefix`."""
        return [task for task in self._tasks if task.get_name().startswith(prefix)]

    async def aclose(self) -> None:
        """Cancel what is not done and wait for it; a second call does nothing."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _single_ended(self, task: asyncio.Task[Any]) -> None:
        if self._single.get(task.get_name()) is task:
            del self._single[task.get_name()]
