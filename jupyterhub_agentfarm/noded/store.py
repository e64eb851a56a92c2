"""The state directory's ``servers/``: a record and a log for each server.

A record holds what the next noded needs to adopt the server. It never holds the server's environment.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.isolation import Sandbox
from jupyterhub_agentfarm.models import ServerStatus
from jupyterhub_agentfarm.records import from_json, to_json

from .orphans import noded_mark

log = logging.getLogger(__name__)

_LEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
_MAX_TAIL_LINES = 1000
_MAX_TAIL_BYTES = 256 * 1024


def check_lease(lease: str) -> str:
    """Return `lease` when it can be part of a file's name.

    Raises
    ------
    InvalidField
        It cannot.
    """
    if not _LEASE.fullmatch(lease):
        raise InvalidField("lease", "1-64 letters, digits, hyphens and underscores", lease)
    return lease


@dataclass(frozen=True)
class Record:
    """What is written down about a server. A pid of 0 means: it was about to be started."""

    status: ServerStatus
    cgroups: tuple[str, ...] = ()
    #: User id that it runs as; None: noded's own.
    uid: int | None = None
    sandbox: Sandbox = "none"


class Store:
    """Records and logs of servers.

    Parameters
    ----------
    folder
        Where they lie; made with mode 0700.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: Names the noded whose records these are, in the environment of its servers.
        self.mark = noded_mark(folder.parent)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)

    def log_path(self, lease: str) -> Path:
        """Return where the server's output goes."""
        return self._folder / f"{check_lease(lease)}.log"

    def _record_path(self, lease: str) -> Path:
        return self._folder / f"{check_lease(lease)}.json"

    def save(self, record: Record) -> None:
        """Write a record; a reader sees the old one or the new one, never a part."""
        path = self._record_path(record.status.lease)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(to_json(record), file)
        new.replace(path)

    def load(self) -> list[Record]:
        """Return all records; one that cannot be read is reported and set aside."""
        records = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                records.append(from_json(Record, json.loads(path.read_text("utf-8"))))
            except (ValueError, InvalidField) as exc:
                log.warning("Setting aside %s, which is no record of a server: %s", path, exc)
                path.replace(path.with_suffix(".broken"))
        return records

    def delete(self, lease: str) -> None:
        """Remove the record and the log of a server."""
        self._record_path(lease).unlink(missing_ok=True)
        self.log_path(lease).unlink(missing_ok=True)

    def open_log(self, lease: str) -> int:
        """Return a file descriptor of a new, empty log of mode 0600."""
        path = self.log_path(lease)
        path.unlink(missing_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def tail(self, lease: str, lines: int) -> str:
        """Return the last lines of a log: at most 1000 of them and 256 KiB. It reads nothing but the file's end."""
        try:
            with self.log_path(lease).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _MAX_TAIL_BYTES))
                data = file.read(_MAX_TAIL_BYTES)
        except FileNotFoundError:
            return ""
        wanted = min(max(lines, 0), _MAX_TAIL_LINES)
        kept = data.decode(errors="replace").splitlines(keepends=True)[-wanted:] if wanted else []
        return "".join(kept)
