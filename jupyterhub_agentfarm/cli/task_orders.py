"""``agentfarm tasks cancel | retry | hand-over | notebook | artifacts``: what is done with one task."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Enum, Unicode

from ..agents.tasks.files import checked_path
from ..errors import ConfigError
from ..terminal.quantities import size
from ..terminal.task_following import task_summary
from .agents import AgentsCommand
from .command import Command


class _OneTask(AgentsCommand):
    """A command about one task."""

    positionals: ClassVar[tuple[str, ...]] = ("TASK",)

    @property
    def task(self) -> str:
        """Id of the task."""
        return str(self.extra_args[0])

    def finish(self, task: Mapping[str, Any]) -> None:
        """Write how the task is now."""
        if self.json:
            self.output.json(task)
            return
        waiting = ": it ends when its attempt has been stopped" if task["ending"] else ""
        self.output.line(task_summary(task) + waiting)


class Cancel(_OneTask):
    """End a task."""

    command = "agentfarm tasks cancel"
    description = "End a task: at once, or when its attempt has been stopped."

    async def run(self) -> None:
        """Ask for its end."""
        async with self.service() as service:
            self.finish(await service.cancel(self.task))


class Retry(_OneTask):
    """Allow one more attempt."""

    command = "agentfarm tasks retry"
    description = "Allow a cancelled or discarded task one more attempt."

    async def run(self) -> None:
        """Ask for it."""
        async with self.service() as service:
            self.finish(await service.retry(self.task))


class HandOverTask(_OneTask):
    """Hand a task over."""

    command = "agentfarm tasks hand-over"
    description = (
        "Hand a task over: an agent for which you act takes it over and executes it, another agent is offered it, and "
        "a person is to look at it."
    )
    positionals = ("TASK", "NAME")
    note = Unicode("", help="What they should know.").tag(config=True)
    aliases = {**Command.aliases, "note": "HandOverTask.note"}

    async def run(self) -> None:
        """Hand it over."""
        async with self.service() as service:
            self.finish(await service.hand_over(self.task, str(self.extra_args[1]), self.note))


class FetchNotebook(_OneTask):
    """Write the notebook."""

    command = "agentfarm tasks notebook"
    description = "Write the notebook of a task to stdout, or to a file: as it was executed so far, or as submitted."
    which = Enum(("", "submitted", "executed"), "", help="submitted or executed. Default: executed, if it was.").tag(
        config=True
    )
    output_file = Unicode("", help="File to write. Default: stdout.").tag(config=True)
    aliases = {**Command.aliases, "which": "FetchNotebook.which", "output": "FetchNotebook.output_file"}

    async def run(self) -> None:
        """Fetch the notebook and write it."""
        async with self.service() as service:
            content = service.notebook(self.task, self.which or None)
            if self.output_file:
                await save(Path(self.output_file), content)
                self.output.note(f"Notebook: {self.output_file}")
                return
            async for chunk in content:
                sys.stdout.write(chunk.decode())


class Artifacts(_OneTask):
    """List or write what a task left."""

    command = "agentfarm tasks artifacts"
    description = "List the files that the attempts of a task left; with --output write those of the newest attempt."
    folder = Unicode("", help="Folder to write the files to. Default: they are only listed.").tag(config=True)
    aliases = {**Command.aliases, "output": "Artifacts.folder"}

    async def run(self) -> None:
        """List the files, and fetch them if asked to."""
        async with self.service() as service:
            artifacts = (await service.task(self.task))["artifacts"]
            if self.folder:
                newest = max((each["attempt"] for each in artifacts), default=0)
                for each in artifacts:
                    if each["attempt"] == newest:
                        target = Path(self.folder) / checked_path(each["path"])
                        await save(target, service.artifact(self.task, each["path"], newest))
        if self.json:
            self.output.json({"artifacts": artifacts})
            return
        rows = [(each["attempt"], each["path"], size(each["size_bytes"]), each["sha256"]) for each in artifacts]
        self.output.table(("ATTEMPT", "PATH", "SIZE", "SHA256"), rows, "The task has left no files.")


async def save(path: Path, content: AsyncIterator[bytes]) -> None:
    """Write a file as it comes in; it appears when it is whole.

    Raises
    ------
    ConfigError
        It cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                async for chunk in content:
                    stream.write(chunk)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
