"""One run on disk: what is known of it survives the server.

A run's folder (0700) holds::

    run.json         {"server", "idempotency_key", "run": Run}, replaced at every change
    notebook.ipynb   as executed so far, replaced after every cell
    events.jsonl     what followers are told
    artifacts/       what the notebook leaves there, which $AGENTFARM_ARTIFACTS names
    lock             locked by the server that has the run, as long as that server lives

The lock tells the runs of a server that is gone from those of another living server with the same home directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.notebooknode import from_dict

from ..records import from_json, to_json
from . import artifacts
from .events import EventFeed
from .files import replace_file
from .models import Reason, Run, State, utc_now
from .notebooks import to_bytes


class Journal:
    """A run, its folder and its events. Changes come from one thread at a time; reading is safe from all."""

    def __init__(self, folder: Path, run: Run, server: str, idempotency_key: str | None, feed: EventFeed) -> None:
        self.folder = folder
        self.run = run
        self.server = server
        self.idempotency_key = idempotency_key
        self.feed = feed
        self._lock = threading.RLock()
        self._held: int | None = None

    @classmethod
    def create(
        cls, folder: Path, run: Run, server: str, idempotency_key: str | None, notebook: NotebookNode
    ) -> Journal:
        """Make the folder of a new run and lock it.

        Raises
        ------
        OSError
            The folder cannot be made or written.
        """
        folder.mkdir(mode=0o700)
        (folder / artifacts.FOLDER).mkdir(mode=0o700)
        journal = cls(folder, run, server, idempotency_key, EventFeed(folder / "events.jsonl"))
        journal.lock()
        journal.save_notebook(notebook)
        journal.change()
        journal.feed.publish("state", state=run.state, reason=None, detail=None)
        return journal

    @classmethod
    def load(cls, folder: Path) -> Journal:
        """Return the run that `folder` holds.

        Raises
        ------
        OSError, ValueError, KeyError, InvalidField
            The folder does not hold a run.
        """
        stored: dict[str, Any] = json.loads((folder / "run.json").read_bytes())
        run = from_json(Run, stored["run"])
        return cls(folder, run, stored["server"], stored["idempotency_key"], EventFeed.load(folder / "events.jsonl"))

    @property
    def notebook_path(self) -> Path:
        """The file of the notebook as executed so far."""
        return self.folder / "notebook.ipynb"

    @property
    def artifacts_folder(self) -> Path:
        """The folder whose files are the run's artifacts."""
        return self.folder / artifacts.FOLDER

    def lock(self) -> bool:
        """Take the run for this process and return True, or return False when another process has it."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._held = descriptor
        return True

    def unlock(self) -> None:
        """Give the run free; harmless when it is not held."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def change(self, **changes: Any) -> Run:
        """Set fields of the run, keep it on disk and return it.

        Raises
        ------
        OSError
            The run could not be kept; it is changed in memory all the same.
        """
        with self._lock:
            self.run = dataclasses.replace(self.run, **changes)
            stored = {"server": self.server, "idempotency_key": self.idempotency_key, "run": to_json(self.run)}
            replace_file(self.folder / "run.json", json.dumps(stored).encode())
            return self.run

    def end(self, state: State, reason: Reason | None, detail: str | None, **changes: Any) -> None:
        """Bring the run into a state that it does not leave, once; a disk that is full does not stop this."""
        with self._lock:
            if self.run.ended:
                return
            with contextlib.suppress(OSError):
                self.change(state=state, reason=reason, detail=detail, ended_at=utc_now(), **changes)
            with contextlib.suppress(OSError):
                self.feed.publish("state", state=state, reason=reason, detail=detail)
            self.unlock()

    async def until_ended(self, seconds: float) -> None:
        """Return when the run has ended, or after so many seconds."""
        loop, seq = asyncio.get_running_loop(), 0
        deadline = loop.time() + seconds
        while not self.run.ended and (left := deadline - loop.time()) > 0:
            events = await self.feed.after(seq, left)
            seq += len(events)

    def read_notebook(self) -> NotebookNode:
        """Return the notebook as executed so far."""
        notebook: NotebookNode = from_dict(json.loads(self.notebook_path.read_bytes()))
        return notebook

    def save_notebook(self, notebook: NotebookNode) -> None:
        """Keep the notebook as executed so far.

        Raises
        ------
        OSError
            It could not be written; the one kept before is still there.
        """
        replace_file(self.notebook_path, to_bytes(notebook))

    def remove(self) -> None:
        """Delete the folder."""
        self.unlock()
        shutil.rmtree(self.folder, ignore_errors=True)
