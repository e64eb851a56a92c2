"""Owned tasks: each is kept, its fault is logged, and all end with their owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """The tasks of one owner; at most one of each name runs."""

    def __init__(self) -> None:
        self._by_name: dict[str, asyncio.Task[Any]] = {}
        self._all: set[asyncio.Task[Any]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, Any], *, replace: bool = False) -> None:
        """Run `work`; when a task of this name runs already, `work` is dropped, or with `replace` takes its place."""
        running = self._by_name.get(name)
        if running is not None:
            if not replace:
                work.close()
                return
            running.cancel()
        task = asyncio.create_task(work, name=name)
        self._by_name[name] = task
        self._all.add(task)
        task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """Cancel every task and wait for its end; may be called again."""
        tasks = list(self._all)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._all.discard(task)
        if self._by_name.get(task.get_name()) is task:
            del self._by_name[task.get_name()]
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=fault)
