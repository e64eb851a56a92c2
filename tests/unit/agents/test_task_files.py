"""Notebooks and artifacts on the disk: private, whole, inside their folder, and nothing half-done when it is full."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jupyterhub_agentfarm.agents.models import Attempt
from jupyterhub_agentfarm.agents.tasks import files as files_module
from jupyterhub_agentfarm.agents.tasks.files import TaskFiles, checked_path
from jupyterhub_agentfarm.errors import InvalidField, NoSpace, NotFoundError

TASK = "0123456789abcdef"
ATTEMPT = Attempt(TASK, 1, 1, "bot", "server", "collecting", 0.0)


@pytest.fixture
async def files(tmp_path: Path) -> TaskFiles:
    """Open the files of tasks."""
    made = TaskFiles(tmp_path / "agent-tasks")
    await made.open()
    return made


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """Give the content of a file."""
    for chunk in chunks:
        yield chunk


async def keep(files: TaskFiles, path: str, *chunks: bytes) -> Any:
    """Keep an artifact."""
    received = await files.receive(ATTEMPT, path, pieces(*chunks))
    await files.keep(received)
    return received.artifact


def entries(root: Path) -> dict[str, str]:
    """Return the modes of everything below a folder."""
    return {str(path.relative_to(root)): oct(path.stat().st_mode & 0o777) for path in sorted(root.rglob("*"))}


async def test_everything_is_private(files: TaskFiles, tmp_path: Path) -> None:
    """Folders are 0700 and files 0600, whatever the umask lets through."""
    before = os.umask(0)
    try:
        await files.save_notebook(TASK, b"{}")
        await files.settle(TASK)
        await files.save_executed(ATTEMPT, b"{}")
        await keep(files, "a/b/c.txt", b"c")
    finally:
        os.umask(before)
    root = tmp_path / "agent-tasks"
    assert oct(root.stat().st_mode & 0o777) == "0o700"
    assert entries(root) == {
        ".incoming": "0o700",
        TASK: "0o700",
        f"{TASK}/attempt-1": "0o700",
        f"{TASK}/attempt-1/a": "0o700",
        f"{TASK}/attempt-1/a/b": "0o700",
        f"{TASK}/attempt-1/a/b/c.txt": "0o600",
        f"{TASK}/executed-1.ipynb": "0o600",
        f"{TASK}/notebook.ipynb": "0o600",
    }


async def test_an_artifact_is_what_came_in(files: TaskFiles) -> None:
    """Size and digest are those of the content; a later one of the same path takes its place."""
    await keep(files, "a.bin", b"old")
    artifact = await keep(files, "a.bin", b"x" * 70_000, b"", b"y")
    assert artifact.size_bytes == 70_001
    assert artifact.sha256 == hashlib.sha256(b"x" * 70_000 + b"y").hexdigest()
    assert b"".join([chunk async for chunk in files.artifact(artifact)]) == b"x" * 70_000 + b"y"


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a/.", "a\0b", "a\nb", "\ud800", "x" * 300,
             "/".join("a" * 40), "é" * 130]
)  # fmt: skip
async def test_paths_stay_inside(files: TaskFiles, path: str) -> None:
    """Whatever would leave the folder, or what file systems do not take, is refused."""
    with pytest.raises(InvalidField, match="path"):
        await keep(files, path, b"a")
    with pytest.raises(InvalidField):
        checked_path(path)


async def test_a_file_is_no_folder(files: TaskFiles, tmp_path: Path) -> None:
    """Nor is a folder a file: the second of the two is refused."""
    await keep(files, "a", b"a")
    await keep(files, "b/c", b"c")
    for path in ("a/x", "b"):
        with pytest.raises(InvalidField):
            await keep(files, path, b"x")
    assert list((tmp_path / "agent-tasks" / ".incoming").iterdir()) == []


async def test_what_is_too_large_is_refused_before_all_of_it_came(files: TaskFiles, tmp_path: Path) -> None:
    """And nothing of it stays."""
    files.max_artifact = files.max_notebook = 10
    taken = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            taken.append(1)
            yield b"12345"

    with pytest.raises(NoSpace, match="larger than the 10 bytes"):
        await files.receive(ATTEMPT, "a", endless())
    assert len(taken) == 3
    with pytest.raises(NoSpace):
        await files.save_notebook(TASK, b"x" * 11)
    with pytest.raises(NoSpace):
        await files.save_executed(ATTEMPT, b"x" * 11)
    assert entries(tmp_path / "agent-tasks") == {".incoming": "0o700"}


async def test_a_full_disk_leaves_nothing_half_done(
    files: TaskFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel said is said, and what was kept before stays as it was."""
    await files.save_executed(ATTEMPT, b"before")
    artifact = await keep(files, "a.txt", b"before")
    before = entries(tmp_path / "agent-tasks")

    def on_a_full_disk(path: Path) -> Any:
        path.touch()
        return Path("/dev/full").open("wb", buffering=0)

    monkeypatch.setattr(files_module, "_create", on_a_full_disk)
    with pytest.raises(NoSpace, match=r"notebook.ipynb cannot be kept: No space left on device"):
        await files.save_notebook("f" * 16, b"{}")
    with pytest.raises(NoSpace, match="No space left"):
        await files.save_executed(ATTEMPT, b"after")
    with pytest.raises(NoSpace, match=r"a.txt cannot be kept: No space left"):
        await keep(files, "a.txt", b"after")
    assert entries(tmp_path / "agent-tasks") == before
    assert await files.executed(TASK) == b"before"
    assert b"".join([chunk async for chunk in files.artifact(artifact)]) == b"before"


async def test_the_newest_attempts_notebook_is_the_executed_one(files: TaskFiles) -> None:
    """Attempt 10 comes after attempt 9, and an earlier attempt that still writes changes nothing."""
    for number in (9, 10):
        await files.save_executed(Attempt(TASK, number, number, "bot", "s", "running", 0.0), f"{number}".encode())
    await files.save_executed(Attempt(TASK, 9, 9, "bot", "s", "running", 0.0), b"late")
    assert await files.executed(TASK) == b"10"


async def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """The service does not start with a data directory that is a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NoSpace, match="Not a directory"):
        await TaskFiles(tmp_path / "file" / "agent-tasks").open()


async def test_what_is_not_there_is_not_found(files: TaskFiles) -> None:
    """Also for what is no id of a task, and could be a path."""
    for task_id in (TASK, "..", "x"):
        with pytest.raises(NotFoundError):
            await files.notebook(task_id)
    await files.forget(TASK)
