"""The files that a run leaves in its artifacts folder, told and read without trusting the notebook that wrote them.

A notebook may leave anything there. Only regular files count; no symbolic link is followed, neither as a file nor on
the way to one, so nothing outside the folder is ever read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotFoundError
from .models import Artifacts, RunArtifact

#: The folder's name in the folder of its run.
FOLDER = "artifacts"
_CHUNK_BYTES = 2**20
#: Sentences about files that are left out; there can be as many as a notebook likes to make.
_MOST_REFUSED = 100
_MOST_DEPTH = 32
_ON_THE_WAY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A pipe in the folder must not block whoever opens it.
_AT_THE_END = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Bounds:
    """The most that is told of a run's artifacts."""

    files: int
    #: Of all files together.
    size_bytes: int


def list_artifacts(folder: Path, bounds: Bounds) -> Artifacts:
    """Return the artifacts in `folder` in the order of their paths, and why others are left out. Reads every file."""
    kept: list[RunArtifact] = []
    refused: list[str] = []
    left = bounds.size_bytes
    for path, fault in _walk(folder):
        why = fault or _beyond(bounds, len(kept), left, _size(folder, path))
        entry = None if why else _artifact(folder, path)
        if entry is not None:
            left -= entry.size_bytes
            kept.append(entry)
        elif len(refused) < _MOST_REFUSED:
            refused.append(f"{path}: {why or 'it cannot be read'}.")
    return Artifacts(tuple(kept), tuple(refused))


def _beyond(bounds: Bounds, kept: int, left: int, size: int) -> str:
    if kept >= bounds.files:
        return f"a run keeps at most {bounds.files} files"
    return f"a run keeps at most {bounds.size_bytes} bytes" if size > left else ""


def open_artifact(folder: Path, path: str) -> int:
    """Return a descriptor of the regular file `path` below `folder`, for the caller to close.

    Raises
    ------
    NotFoundError
        There is none, or a symbolic link is on the way.
    """
    *parents, name = _parts(path)
    missing = f"There is no artifact {path[:200]!r}."
    try:
        where = os.open(folder, _ON_THE_WAY)
        for part in parents:
            where = _step(where, part, _ON_THE_WAY)
        descriptor = _step(where, name, _AT_THE_END)
    except OSError as exc:
        raise NotFoundError(missing) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotFoundError(missing)
    return descriptor


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if len(parts) > _MOST_DEPTH or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise NotFoundError("An artifact's path is relative, with slashes, and has neither `.` nor `..`.")
    return parts


def _step(where: int, name: str, flags: int) -> int:
    """Open `name` in the open folder `where`, which is closed."""
    try:
        return os.open(name, flags, dir_fd=where)
    finally:
        os.close(where)


def _walk(folder: Path, inner: str = "", depth: int = 1) -> Iterator[tuple[str, str]]:
    """Yield the path of everything below `folder` that is no folder, with why it is left out, or ""."""
    try:
        entries = sorted(os.scandir(folder / inner), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        path = inner + entry.name
        if _unspeakable(entry.name):
            yield path.encode("utf-8", "replace").decode(), "its name cannot be told"
        elif entry.is_dir(follow_symlinks=False):
            if depth >= _MOST_DEPTH:
                yield path, f"it lies more than {_MOST_DEPTH} folders deep"
            else:
                yield from _walk(folder, f"{path}/", depth + 1)
        elif entry.is_symlink():
            yield path, "it is a symbolic link"
        else:
            yield path, "" if entry.is_file(follow_symlinks=False) else "it is no regular file"


def _unspeakable(name: str) -> bool:
    """Whether a name cannot stand in JSON and in a URL: it is no UTF-8, or has control characters."""
    return not name.isprintable()


def _size(folder: Path, path: str) -> int:
    with suppress(OSError):
        return (folder / path).lstat().st_size
    return 0


def _artifact(folder: Path, path: str) -> RunArtifact | None:
    digest, size = hashlib.sha256(), 0
    with suppress(NotFoundError, OSError):
        with open(open_artifact(folder, path), "rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        return RunArtifact(path, size, digest.hexdigest())
    return None
