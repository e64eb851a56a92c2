"""Looks for secrets where they must not be: argument lists, environments, files, answers.

A :class:`Scan` collects what can be seen, also before the secrets are known, and says afterwards what was found where.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

#: nobody, who may see nothing of the farm.
STRANGER = 65534
_LARGEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Allowed:
    """Where a secret may lie, and why; the file must be its owner's alone."""

    secret: str
    #: Pattern of the path.
    path: str
    why: str


@dataclass
class Scan:
    """Everything that was seen, by where it was seen."""

    seen: dict[str, bytes] = field(default_factory=dict)

    def note(self, where: str, text: bytes | str) -> None:
        """Add what was seen at a place; what was seen there before stays."""
        data = text.encode() if isinstance(text, str) else text
        if data not in self.seen.get(where, b""):
            self.seen[where] = self.seen.get(where, b"") + b"\n" + data

    def argument_lists(self) -> None:
        """Add every process's arguments."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.note("argv", path.read_bytes())
            except (FileNotFoundError, ProcessLookupError):
                continue

    def as_a_stranger(self) -> None:
        """Add what the account nobody can read of every process; only root can become it."""
        command = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/comm 2>/dev/null"
        self.note("what nobody can read of processes", _as_stranger(["sh", "-c", command]))

    def files(self, roots: Iterable[Path]) -> None:
        """Add the contents of every file below `roots`, with its mode."""
        for root in roots:
            for folder, _, names in os.walk(root, onerror=lambda _: None):
                for name in names:
                    self._file(Path(folder, name))

    def _file(self, path: Path) -> None:
        try:
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST_BYTES:
                self.note(f"file {stat.S_IMODE(status.st_mode):04o} {path}", path.read_bytes())
        except FileNotFoundError:
            return

    def files_of_a_stranger(self, roots: Iterable[Path]) -> None:
        """Add the contents of every file below `roots` that the account nobody can read."""
        command = ["find", *(str(root) for root in roots), "-type", "f", "-readable", "-exec", "cat", "{}", "+"]
        self.note("files that nobody can read", _as_stranger(command))

    def found(self, secrets: Mapping[str, str]) -> set[tuple[str, str]]:
        """Return each secret's name with each place where it was seen."""
        values = {name: value.encode() for name, value in secrets.items()}
        assert all(len(value) >= 12 for value in values.values()), "too short to be looked for"
        return {(name, where) for where, data in self.seen.items() for name, value in values.items() if value in data}

    def leaks(self, secrets: Mapping[str, str], allowed: Iterable[Allowed]) -> list[str]:
        """Return a line for each finding that nothing allows."""
        return sorted(
            f"{name}: {where}"
            for name, where in self.found(secrets)
            if not any(rule.secret == name and fnmatch(where, f"file 0600 {rule.path}") for rule in allowed)
        )


def _as_stranger(command: list[str]) -> bytes:
    if os.geteuid() != 0:
        return b""
    result = subprocess.run(
        command, user=STRANGER, group=STRANGER, extra_groups=[], cwd="/", capture_output=True, check=False, timeout=60
    )
    return result.stdout
