"""All runs of one server: what is queued, what executes, what is kept."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.paths import jupyter_data_dir
from nbformat import NotebookNode
from traitlets import Any as AnyTrait
from traitlets import Instance, Integer, Unicode, default
from traitlets.config import LoggingConfigurable

from ..errors import AgentFarmError, ConflictError, NotFoundError
from ..traitlets import ByteSize, Seconds
from .artifacts import Bounds, list_artifacts
from .execution import Execution
from .journal import Journal
from .lanes import RunLanes
from .models import Artifacts, Reason, Run, RunRequest, age_seconds, utc_now
from .notebooks import executes
from .plan import Plan, Site, prepare

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AgentFarmError)


class RunBook(LoggingConfigurable):
    """Takes notebooks, executes some at a time, and keeps what became of them.

    - A run that was taken does not depend on who submitted it.
    - After `open`, no run of a server that is gone is left "queued" or "executing".
    - After `close`, no kernel of a run is left. It is idempotent.

    All methods but `close` belong to the server's event loop.
    """

    directory = Unicode(
        config=True,
        help="""Folder in which runs are kept, one folder each, readable by the user alone.

        Several servers may share it, also on a network file system that supports locks. On a local disk, saving after
        every cell costs less.
        """,
    )

    max_concurrent = Integer(
        4,
        min=1,
        config=True,
        help="""How many runs execute at once; further ones wait, in the order in which they came.

        Each has a kernel of its own: more use the CPU cores better when notebooks wait for something, fewer leave each
        more memory, and GPU memory, which nothing divides between them.
        """,
    )

    keep = Seconds(
        7 * 86400.0,
        config=True,
        help="""How long a run that has ended is kept, with its notebook (in seconds, or "7d").

        Longer keeps results for those who come late; shorter frees disk space earlier.
        """,
    )

    max_output_bytes = ByteSize(
        512 * 2**20,
        config=True,
        help="""How much output of its cells a run keeps (in bytes, or "512M").

        What exceeds it is cut, and the run says so. The notebook is held in the server's memory and saved after every
        cell, so a larger value costs memory, and time in notebooks of many cells.
        """,
    )

    iopub_timeout = Seconds(
        60,
        config=True,
        help="""How long output may be outstanding after the kernel said that a cell has ended (in seconds).

        Then the run fails with `output_lost`. A smaller value ends such runs sooner, and wrongly fails cells whose
        output takes longer to read.
        """,
    )

    interrupt_grace = Seconds(
        5,
        config=True,
        help="""How long an interrupted cell has to end before its kernel is killed (in seconds).

        Longer lets notebooks clean up in `except KeyboardInterrupt`; shorter frees the GPU sooner.
        """,
    )

    max_artifacts = Integer(
        1000,
        min=0,
        config=True,
        help="""How many files of a run's artifacts folder are told and read; further ones are left out, by name.

        More suits notebooks that write many small files; fewer keeps the list short, which is made anew, with every
        file's checksum, at each question.
        """,
    )

    max_artifact_bytes = ByteSize(
        2 * 2**30,
        config=True,
        help="""How large the told files of a run's artifacts folder may be together (in bytes, or "2G").

        Larger lets runs hand over more; smaller keeps what services fetch and keep of each run small.
        """,
    )

    root_directory = Unicode(help="The server's root directory.")
    server = Unicode("/", help="The server's base URL: what tells its runs from those of a user's other servers.")
    default_kernel_name = Unicode("python3", help="The kernel of notebooks that name none.")
    kernel_specs = Instance(KernelSpecManager, help="Where kernels are looked up.")
    activity = AnyTrait(help="The server's mapping of what was active to when.")

    @default("directory")
    def _default_directory(self) -> str:
        return str(Path(jupyter_data_dir()) / "agentfarm" / "runs")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._journals: dict[str, Journal] = {}
        self._lanes = RunLanes(self.max_concurrent, self.activity, self._ended)
        self._submitting = asyncio.Lock()
        self._closed = False

    def open(self) -> None:
        """Read the runs of earlier servers, and end those that a server left behind when it died.

        Raises
        ------
        OSError
            The directory cannot be made.
        """
        folder = Path(self.directory)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = [journal for entry in sorted(folder.iterdir()) if (journal := self._load(entry)) is not None]
        for journal in sorted(found, key=lambda journal: journal.run.created_at):
            if journal.server == self.server:
                self._journals[journal.run.id] = journal

    def close(self) -> None:
        """Stop everything that executes and end what is queued; returns when the kernels are gone."""
        self._closed = True
        for run_id in self._lanes.close():
            detail = "The Jupyter server was stopped before the run began."
            self._journals[run_id].end("failed", "server_stopped", detail)

    def runs(self) -> list[Run]:
        """Return all runs, newest first."""
        return [journal.run for journal in reversed(self._journals.values())]

    def journal(self, run_id: str) -> Journal:
        """Return the journal of a run.

        Raises
        ------
        NotFoundError
            There is no such run, or no longer.
        """
        if run_id not in self._journals:
            raise NotFoundError(f"There is no run {run_id} on this server; ended runs are kept for {self.keep:g} s.")
        return self._journals[run_id]

    async def artifacts(self, run_id: str) -> Artifacts:
        """Return what a run left in its artifacts folder so far.

        Raises
        ------
        NotFoundError
            There is no such run.
        """
        bounds = Bounds(self.max_artifacts, self.max_artifact_bytes)
        return await asyncio.to_thread(list_artifacts, self.journal(run_id).artifacts_folder, bounds)

    async def submit(self, request: RunRequest) -> tuple[Run, bool]:
        """Take a notebook. Return its run, and whether it is a new one.

        Raises
        ------
        InvalidField
            The request cannot be carried out.
        ConflictError
            The server is stopping.
        OSError
            The run cannot be kept.
        """
        async with self._submitting:
            known = self._find(request.idempotency_key)
            if known is not None:
                return known.run, False
            site = Site(Path(self.root_directory), self.kernel_specs, self.default_kernel_name)
            plan, notebook = await asyncio.to_thread(prepare, request, site)
            journal = await asyncio.to_thread(self._create, request, plan, notebook)
            if self._closed:
                journal.remove()
                raise ConflictError("The server is stopping; submit the notebook to another one.")
            self._journals[journal.run.id] = journal
        options = self._recorder_options()
        execution = Execution(journal, plan, self.kernel_specs, options, self.interrupt_grace)
        self._lanes.add(journal.run.id, execution)
        await self._prune()
        return journal.run, True

    def cancel(self, run_id: str) -> Run:
        """Have a run end as cancelled, and return it; one that has ended stays as it is.

        Raises
        ------
        NotFoundError
            There is no such run.
        """
        journal = self.journal(run_id)
        if self._lanes.withdraw(run_id):
            journal.end("cancelled", "cancelled", "The run was cancelled before it began.")
        else:
            self._lanes.stop(run_id)
        return journal.run

    def forget(self, run_id: str) -> Journal:
        """Take a run that has ended out of the book and return its journal, for the caller to remove.

        Raises
        ------
        NotFoundError
            There is no such run.
        ConflictError
            The run has not ended.
        """
        journal = self.journal(run_id)
        if not journal.run.ended:
            raise ConflictError(f"Run {run_id} is {journal.run.state}: cancel it first.")
        del self._journals[run_id]
        return journal

    def _find(self, key: str | None) -> Journal | None:
        same = (journal for journal in self._journals.values() if key is not None and journal.idempotency_key == key)
        return next(same, None)

    def _create(self, request: RunRequest, plan: Plan, notebook: NotebookNode) -> Journal:
        run = Run(
            id=secrets.token_hex(8),
            name=request.name,
            state="queued",
            kernel_name=plan.kernel_name,
            created_at=utc_now(),
            cells_total=sum(executes(cell) for cell in notebook.cells),
            output_path=request.output_path,
        )
        return Journal.create(Path(self.directory) / run.id, run, self.server, request.idempotency_key, notebook)

    def _recorder_options(self) -> dict[str, Any]:
        return {
            "timeout": None,
            "iopub_timeout": max(1, round(self.iopub_timeout)),
            "raise_on_iopub_timeout": True,
            "max_output_bytes": self.max_output_bytes,
        }

    def _ended(self, run_id: str) -> None:
        journal = self._journals.get(run_id)
        if journal is not None:
            run = journal.run
            self.log.info(
                "Run %s %s after %s s (%s)", run_id, run.state, run.duration_seconds, run.reason or "no error"
            )

    def _load(self, folder: Path) -> Journal | None:
        """Return the run in `folder`; None when it is another server's, too old, or no run."""
        try:
            journal = Journal.load(folder)
            if not journal.run.ended and not self._bury(journal):
                return None
        except _UNREADABLE as exc:
            self.log.warning("%s holds no run that can be read: %s", folder, exc)
            return None
        if self._expired(journal.run):
            journal.remove()
            return None
        return journal

    def _bury(self, journal: Journal) -> bool:
        """End a run whose server is gone; return False when that server lives."""
        if not journal.lock():
            return False
        reason: Reason = "server_stopped"
        journal.end("failed", reason, f"The Jupyter server went away while the run was {journal.run.state}.")
        return True

    def _expired(self, run: Run) -> bool:
        return run.ended and run.ended_at is not None and age_seconds(run.ended_at) > self.keep

    async def _prune(self) -> None:
        expired = [journal for journal in self._journals.values() if self._expired(journal.run)]
        for journal in expired:
            del self._journals[journal.run.id]
        for journal in expired:
            await asyncio.to_thread(journal.remove)
