"""One run from the kernel's start to its end, in a thread with an event loop of its own.

The thread keeps the server's loop free of large outputs, and keeps nbclient, which takes the signal handlers of the
loop it is on and does not put them back, away from it. That part of nbclient is not used either: kernel and cells are
driven from here, and nbclient executes single cells.

Why a run ends is decided before anything is done about it: after an interrupt or a kill nbclient only sees a
KeyboardInterrupt or a dead kernel, whichever came first.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from .failure import cell_error
from .files import replace_file
from .journal import Journal
from .kernel import Kernel
from .models import CellTiming, Reason, RunEnded, utc_now
from .notebooks import executes, to_bytes
from .plan import Plan
from .recorder import Recorder

T = TypeVar("T")

#: Seconds that a task has to end after it was cancelled.
_CANCEL_SECONDS = 5


class Execution:
    """Executes one run. `stop` may be called from any thread; the journal tells what becomes of it.

    Parameters
    ----------
    journal
        The run; it is changed by this execution alone from now on.
    plan
        How to execute it.
    kernel_specs
        Where kernels are looked up.
    recorder_options
        For :class:`~.recorder.Recorder`.
    interrupt_grace_seconds
        How long an interrupted cell has to end before the kernel is killed.
    """

    def __init__(
        self,
        journal: Journal,
        plan: Plan,
        kernel_specs: KernelSpecManager,
        recorder_options: dict[str, Any],
        interrupt_grace_seconds: float,
    ) -> None:
        self.journal = journal
        self._plan = plan
        self._recorder_options = recorder_options
        self._grace = interrupt_grace_seconds
        self._kernel = Kernel(plan.kernel_name, kernel_specs)
        self._notebook = NotebookNode()
        self._log = logging.getLogger(__name__)
        self._intent: Reason | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._stuck = False

    def stop(self, why: Reason) -> None:
        """Have the run end for the reason `why`; the first reason counts."""
        with self._lock:
            self._intent = self._intent or why
            if self._loop is not None and self._wake is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._wake.set)

    def run(self) -> None:
        """Execute the run; returns when the kernel is gone and the outcome is in the journal."""
        self._began = time.monotonic()
        try:
            asyncio.run(self._run())
        except RunEnded as ended:
            self._end(ended.why, ended.message)
        except Exception as exc:  # noqa: BLE001 - the edge of the thread: a run must not stay "executing" for ever
            self._log.error("Run %s failed in an unforeseen way", self.journal.run.id, exc_info=True)
            self._end("internal", f"The run could not be carried on: {exc}.")
        else:
            self._end(None, None)

    def _end(self, why: Reason | None, detail: str | None) -> None:
        state = {None: "completed", "cancelled": "cancelled"}.get(why, "failed")
        changes: dict[str, Any] = {"duration_seconds": round(time.monotonic() - self._began, 3)}
        if why is None:
            changes["current_cell"] = None
        self.journal.end(state, why, detail, **changes)  # type: ignore[arg-type]

    async def _run(self) -> None:
        with self._lock:
            self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
            if self._intent is not None:
                self._wake.set()
        self.journal.change(state="executing", started_at=utc_now())
        self.journal.feed.publish("state", state="executing", reason=None, detail=None)
        try:
            self._notebook = self.journal.read_notebook()
        except (OSError, ValueError) as exc:
            raise RunEnded("invalid_notebook", f"The notebook kept for the run cannot be read: {exc}.") from exc
        try:
            await self._execute()
        finally:
            await self._kernel.close(now=self._stuck or self._intent == "server_stopped")
            self._save()
            self._write_output()
            with self._lock:
                self._wake = None

    async def _execute(self) -> None:
        recorder = Recorder(self._notebook, km=self._kernel.manager, **self._recorder_options)
        await self._within(self._start_kernel(recorder), None, "The kernel's start")
        for index, cell in enumerate(self._notebook.cells):
            if executes(cell):
                await self._cell(recorder, index, cell)
        recorder.set_widgets_metadata()

    async def _start_kernel(self, recorder: Recorder) -> None:
        environment = {
            **self._plan.environment,
            "AGENTFARM_RUN_ID": self.journal.run.id,
            "AGENTFARM_ARTIFACTS": str(self.journal.artifacts_folder.absolute()),
        }
        recorder.kc = await self._kernel.start(self._plan.working_directory, environment)
        if "language_info" in self._kernel.info:
            self._notebook.metadata["language_info"] = self._kernel.info["language_info"]

    async def _cell(self, recorder: Recorder, index: int, cell: NotebookNode) -> None:
        run = self.journal.change(current_cell=index)
        progress = {"cells_done": run.cells_done, "cells_total": run.cells_total}
        self.journal.feed.publish("cell_started", index=index, **progress)
        began, started_at = time.monotonic(), utc_now()
        recorder.begin_cell()
        assert self._kernel.client is not None
        tally = self._kernel.client.tally
        tally.begin()
        try:
            await self._execute_cell(recorder, index, cell)
        finally:
            timing = CellTiming(index, started_at, round(time.monotonic() - began, 6))
            cut = run.cut + recorder.cut_sentences(index)
            if lost := tally.missing():
                messages = "1 message" if lost == 1 else f"{lost} messages"
                cut += (f"Cell {index}: {messages} of the kernel never arrived; output is missing.",)
            run = self.journal.change(cell_timings=(*run.cell_timings, timing), cut=cut)
            self._save()
        run = self.journal.change(cells_done=run.cells_done + 1)
        progress = {"cells_done": run.cells_done, "cells_total": run.cells_total}
        self.journal.feed.publish("cell_finished", index=index, duration_seconds=timing.duration_seconds, **progress)

    async def _execute_cell(self, recorder: Recorder, index: int, cell: NotebookNode) -> None:
        """Execute one cell and tell apart the ways in which it can fail."""
        work = recorder.execute_recorded(cell, index)
        try:
            await self._within(work, self._plan.cell_timeout_seconds, f"Cell {index}")
        except CellExecutionError as exc:
            error = cell_error(index, cell, recorder.failure)
            self.journal.change(error=error)
            raise RunEnded("cell_error", f"Cell {index} raised {error.ename}: {error.evalue[:200]}") from exc
        except CellTimeoutError as exc:
            # nbclient's own limits are off, but for the wait for output after a cell has ended.
            raise RunEnded(
                "output_lost", f"The kernel said that cell {index} has ended, but output is missing."
            ) from exc
        except DeadKernelError as exc:
            self._stuck = True
            raise RunEnded("kernel_died", f"{await self._obituary()} while it executed cell {index}.") from exc

    async def _obituary(self) -> str:
        status = await self._kernel.exit_status()
        if status is None:
            return "The kernel died"
        return f"The kernel was ended by signal {-status}" if status < 0 else f"The kernel ended with status {status}"

    async def _within(self, work: Coroutine[Any, Any, T], seconds: float | None, what: str) -> T:
        """Return the result of `work`, or end it and the run: at a limit, or when the run is to stop."""
        assert self._wake is not None
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._wake.wait())
        limit, why, detail = self._limit(seconds, what)
        try:
            await asyncio.wait({task, stop}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        if task.done():
            return task.result()
        ended = self._stopped() or RunEnded(why, detail)
        await self._give_up(task, ended.why)
        raise ended

    def _limit(self, seconds: float | None, what: str) -> tuple[float | None, Reason, str]:
        """Return the seconds left, why the run ends then, and the sentence that says so."""
        total = self._plan.timeout_seconds
        left = None if total is None else max(0.0, self._began + total - time.monotonic())
        if seconds is not None and (left is None or seconds < left):
            return seconds, "cell_timeout", f"{what} took longer than {seconds:g} s."
        return left, "run_timeout", f"The run took longer than {total or 0:g} s; {what} was not finished."

    def _stopped(self) -> RunEnded | None:
        if self._intent is None:
            return None
        if self._intent == "server_stopped":
            return RunEnded("server_stopped", "The Jupyter server was stopped while the run was executing.")
        return RunEnded(self._intent, "The run was cancelled while it was executing.")

    async def _give_up(self, task: asyncio.Task[Any], why: Reason) -> None:
        """Interrupt the kernel; when `task` does not end from that, the kernel is to be killed."""
        if why != "server_stopped" and self._kernel.client is not None:
            await self._kernel.interrupt()
            await asyncio.wait({task}, timeout=self._grace)
        if not task.done():
            self._stuck = True
            task.cancel()
            await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
        if task.done() and not task.cancelled():
            task.exception()  # a consequence of the interrupt, and not why the run ends

    def _save(self) -> None:
        try:
            self.journal.save_notebook(self._notebook)
        except OSError as exc:
            raise RunEnded("internal", f"The executed notebook could not be saved: {exc}.") from exc

    def _write_output(self) -> None:
        if self._plan.output_path is None:
            return
        try:
            replace_file(self._plan.output_path, to_bytes(self._notebook), mode=0o666)
        except OSError as exc:
            raise RunEnded("internal", f"The executed notebook could not be written to output_path: {exc}.") from exc
