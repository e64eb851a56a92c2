"""Notebooks and artifacts of tasks on the disk of the service.

::

    agent-tasks/                     0700, files 0600
        .incoming/                   files that are being written, and a mark for each task that is just coming or going
        TASK/notebook.ipynb          as it was submitted
        TASK/executed-N.ipynb        as attempt N has executed it so far
        TASK/attempt-N/PATH          what attempt N left in its artifacts folder

A file appears whole: it is written below `.incoming` and renamed. What a killed service left there is removed at the
next start. Nobody but this class writes here, so there are no links, and paths that would leave a folder are refused.
Everything is done on threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from traitlets.config import LoggingConfigurable

from ...errors import DiskFull, InvalidField, NoSpace, NotFoundError
from ...traitlets import ByteSize
from ..models import Artifact, Attempt

_CHUNK_BYTES = 2**20
_PATH_CHARACTERS = 1000
_NAME_BYTES = 255
_DEPTH = 32
#: What a disk says that has room for nothing more now.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Received:
    """A file that has come in, and does not stand in its place yet."""

    artifact: Artifact
    temporary: Path


class TaskFiles(LoggingConfigurable):
    """The files of all tasks.

    Parameters
    ----------
    root
        Folder for them; made when it is missing.
    """

    max_notebook = ByteSize(
        128 * 2**20,
        help="Largest notebook that is kept, in bytes or as '128M'; an executed one has its output inside. Larger lets "
        "whoever submits tasks fill more of the disk.",
    ).tag(config=True)
    max_artifact = ByteSize(
        2**30,
        help="Largest file that is kept of an attempt, in bytes or as '1G'. Larger files belong into the workspace.",
    ).tag(config=True)

    def __init__(self, root: Path, **options: Any) -> None:
        super().__init__(**options)
        self._root = root
        self._incoming = root / ".incoming"

    async def open(self) -> None:
        """Make the folder.

        Raises
        ------
        NoSpace
            It cannot be made.
        """
        await asyncio.to_thread(self._make_folders)

    async def sweep(self, known: Callable[[list[str]], Awaitable[set[str]]]) -> None:
        """Remove what a killed service did not finish; `known` tells which of some tasks exist."""
        left = await asyncio.to_thread(lambda: sorted(entry.name for entry in self._incoming.iterdir()))
        tasks = [name for name in left if re.fullmatch("[0-9a-f]{16}", name)]
        exist = await known(tasks)
        for task_id in tasks:
            await (self.settle(task_id) if task_id in exist else self.forget(task_id))
        for name in set(left) - set(tasks):
            await asyncio.to_thread((self._incoming / name).unlink, missing_ok=True)

    # ---- notebooks ----

    async def save_notebook(self, task_id: str, notebook: bytes) -> None:
        """Keep the notebook of a task that is not known yet; `settle` or `forget` is to follow.

        Raises
        ------
        NoSpace
            It is too large, or cannot be written; nothing is left behind.
        """
        self._check_size("the notebook", len(notebook), self.max_notebook)
        try:
            await asyncio.to_thread(self._save_new, task_id, notebook)
        except NoSpace:
            await self.forget(task_id)
            raise

    async def mark(self, ids: list[str]) -> None:
        """Note that tasks are about to be forgotten: what a killed service leaves of them goes at the next start."""
        for task_id in ids:
            await asyncio.to_thread((self._incoming / task_id).touch, mode=0o600)

    async def settle(self, task_id: str) -> None:
        """Note that a task is known, so that its files stay."""
        await asyncio.to_thread((self._incoming / task_id).unlink, missing_ok=True)

    async def notebook(self, task_id: str) -> bytes:
        """Return the notebook as it was submitted.

        Raises
        ------
        NotFoundError
            It was not: the task has a path in its agent's workspace.
        """
        try:
            return await asyncio.to_thread((self._folder(task_id) / "notebook.ipynb").read_bytes)
        except FileNotFoundError as exc:
            raise NotFoundError(f"task {task_id} was submitted without its notebook: it has a path") from exc

    async def open_notebook(self, task_id: str, which: str) -> BinaryIO:
        """Return the notebook to be read piece by piece: `submitted`, or `executed` as the newest attempt did.

        Raises
        ------
        NotFoundError
            There is none of this kind.
        """
        return await asyncio.to_thread(self._open_notebook, task_id, which)

    def _open_notebook(self, task_id: str, which: str) -> BinaryIO:
        found = [self._folder(task_id) / "notebook.ipynb"] if which == "submitted" else self._all_executed(task_id)
        try:
            return found[-1].open("rb")
        except (IndexError, FileNotFoundError) as exc:
            raise NotFoundError(f"task {task_id} has no notebook that was {which}") from exc

    async def save_executed(self, attempt: Attempt, notebook: bytes) -> None:
        """Keep the notebook as an attempt has executed it so far.

        Raises
        ------
        NoSpace
            It is too large, or cannot be written; the one kept before stays. `DiskFull` where it can be later.
        """
        self._check_size("the executed notebook", len(notebook), self.max_notebook)
        target = self._folder(attempt.task) / f"executed-{attempt.number}.ipynb"
        await asyncio.to_thread(self._write, target, notebook)

    async def executed(self, task_id: str) -> bytes:
        """Return the notebook as the newest attempt that left one has executed it.

        Raises
        ------
        NotFoundError
            There is none.
        """
        return await asyncio.to_thread(self._newest_executed, task_id)

    def _newest_executed(self, task_id: str) -> bytes:
        found = self._all_executed(task_id)
        if not found:
            raise NotFoundError(f"no attempt of task {task_id} has left a notebook yet")
        return found[-1].read_bytes()

    def _all_executed(self, task_id: str) -> list[Path]:
        return sorted(self._folder(task_id).glob("executed-*.ipynb"), key=_attempt_number)

    # ---- artifacts ----

    async def receive(self, attempt: Attempt, path: str, content: AsyncIterator[bytes]) -> Received:
        """Write a file of an attempt as it comes in; `keep` or `drop` is to follow.

        Raises
        ------
        InvalidField
            The path is none that can be kept.
        NoSpace
            It is too large, or cannot be written; nothing is left behind. `DiskFull` where it can be later.
        """
        await asyncio.to_thread(self._check_target, attempt, path)
        temporary = self._incoming / f"file-{secrets.token_hex(8)}"
        digest, size = hashlib.sha256(), 0
        try:
            with _no_space(path):
                stream = await asyncio.to_thread(_create, temporary)
            with stream:
                async for chunk in content:
                    size += len(chunk)
                    self._check_size(path, size, self.max_artifact)
                    await asyncio.to_thread(_append, stream, digest, chunk, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return Received(Artifact(attempt.task, attempt.number, path, size, digest.hexdigest()), temporary)

    async def keep(self, received: Received) -> None:
        """Put a received file into its place, where one of the same path is replaced."""
        artifact = received.artifact
        await asyncio.to_thread(self._place, received.temporary, self._target(artifact))

    async def drop(self, received: Received) -> None:
        """Remove a received file that is not to be kept."""
        await asyncio.to_thread(received.temporary.unlink, missing_ok=True)

    async def artifact(self, artifact: Artifact) -> AsyncGenerator[bytes, None]:
        """Give the content of an artifact, piece by piece.

        Raises
        ------
        NotFoundError
            It is not there.
        """
        try:
            stream = await asyncio.to_thread(self._target(artifact).open, "rb")
        except OSError as exc:
            raise NotFoundError(f"there is no artifact {artifact.path!r} of task {artifact.task}") from exc
        async for chunk in pieces(stream):
            yield chunk

    async def forget_artifacts(self, task_id: str) -> None:
        """Remove what the attempts of a task left in their artifacts folders."""
        await asyncio.to_thread(self._remove_artifacts, task_id)

    async def forget(self, task_id: str) -> None:
        """Remove all files of a task, when there are any."""
        await asyncio.to_thread(self._remove, task_id)

    # ---- on threads ----

    def _make_folders(self) -> None:
        with _no_space(str(self._root)):
            for folder in (self._root, self._incoming):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)

    def _save_new(self, task_id: str, notebook: bytes) -> None:
        with _no_space("the notebook"):
            (self._incoming / task_id).touch(mode=0o600)
        self._write(self._folder(task_id) / "notebook.ipynb", notebook)

    def _write(self, target: Path, content: bytes) -> None:
        temporary = self._incoming / f"file-{secrets.token_hex(8)}"
        try:
            with _no_space(target.name):
                with _create(temporary) as stream:
                    _write_all(stream, content)
                self._place(temporary, target)
        except NoSpace:
            temporary.unlink(missing_ok=True)
            raise

    def _place(self, temporary: Path, target: Path) -> None:
        with _no_space(target.name):
            self._make_parents(target)
            temporary.replace(target)

    def _make_parents(self, target: Path) -> None:
        """Make the folders above `target`, each 0700: mkdir's `parents` would not."""
        missing = []
        folder = target.parent
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _remove(self, task_id: str) -> None:
        shutil.rmtree(self._folder(task_id), ignore_errors=True)
        (self._incoming / task_id).unlink(missing_ok=True)

    def _remove_artifacts(self, task_id: str) -> None:
        for folder in self._folder(task_id).glob("attempt-*"):
            shutil.rmtree(folder, ignore_errors=True)

    # ---- paths ----

    def _folder(self, task_id: str) -> Path:
        if not re.fullmatch("[0-9a-f]{16}", task_id):
            raise NotFoundError(f"there is no task {task_id!r}")
        return self._root / task_id

    def _target(self, artifact: Artifact) -> Path:
        return self._folder(artifact.task) / f"attempt-{artifact.attempt}" / checked_path(artifact.path)

    def _check_target(self, attempt: Attempt, path: str) -> None:
        target = self._target(Artifact(attempt.task, attempt.number, path, 0, ""))
        top = self._folder(attempt.task)
        above = [parent for parent in target.parents if parent.is_relative_to(top)]
        if target.is_dir() or any(parent.is_file() for parent in above):
            raise InvalidField("path", "of a file where no folder is, in folders where no file is", path)

    def _check_size(self, what: str, size: int, most: int) -> None:
        if size > most:
            raise NoSpace(f"{what} is larger than the {most} bytes that are kept of it")


async def pieces(stream: BinaryIO) -> AsyncGenerator[bytes, None]:
    """Give what is in a file, piece by piece, and close it."""
    with stream:
        while chunk := await asyncio.to_thread(stream.read, _CHUNK_BYTES):
            yield chunk


def checked_path(path: str) -> PurePosixPath:
    """Return the path of an artifact, which stays in its folder.

    Raises
    ------
    InvalidField
        It is absolute, leads out of the folder, or is longer than file systems take.
    """
    parts = path.split("/")
    bad = len(path) > _PATH_CHARACTERS or len(parts) > _DEPTH or not path.isprintable()
    if bad or any(part in ("", ".", "..") or len(os.fsencode(part)) > _NAME_BYTES for part in parts):
        wanted = f"a relative path with slashes, at most {_PATH_CHARACTERS} characters and {_DEPTH} folders, without .."
        raise InvalidField("path", wanted, path)
    return PurePosixPath(path)


def _attempt_number(path: Path) -> int:
    return int(path.stem.removeprefix("executed-"))


def _create(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=0)


def _append(stream: Any, digest: Any, chunk: bytes, what: str) -> None:
    with _no_space(what):
        _write_all(stream, chunk)
    digest.update(chunk)


def _write_all(stream: Any, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[stream.write(left) :]


@contextlib.contextmanager
def _no_space(what: str) -> Iterator[None]:
    """Make an error of the disk one that says so."""
    try:
        yield
    except OSError as exc:
        kind = DiskFull if exc.errno in _FULL else NoSpace
        raise kind(f"{what} cannot be kept: {exc.strerror}") from exc
