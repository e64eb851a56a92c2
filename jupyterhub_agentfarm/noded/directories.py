"""A private directory for each server: its keys, and what noded tells it while it runs.

``<root>/<lease>/`` has mode 0700 and the server's account as its owner; every file in it is 0600. The server finds it
in ``AGENTFARM_SERVER_DIR``. It is gone when nothing is left of the server.

As root, the root is ``/run/agentfarm/<what names the state directory>``, in memory and open to the servers' accounts;
otherwise it is in the state directory. A server may write into its own directory, so noded follows no link there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.logs import LogLine

from .store import check_lease

log = logging.getLogger(__name__)

#: Names the directory to the server.
DIRECTORY_VARIABLE = "AGENTFARM_SERVER_DIR"
#: Stands for the directory in values of the server's environment.
PLACEHOLDER = "{server_dir}"

#: Where those of all nodeds of a machine lie that are root. It stays, so that sandboxes can cover it while nodeds go.
RUN = Path("/run/agentfarm")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def root_for(state_dir: Path) -> Path:
    """Return where the directories of a noded with this state directory lie."""
    if os.geteuid() != 0:
        return state_dir / "run"
    # Not by the host's name, which may change while servers run.
    return RUN / hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]


def check_files(files: Iterable[str]) -> None:
    """Refuse names that are not those of plain files.

    Raises
    ------
    InvalidField
        A name has a slash, or begins with a dot.
    """
    for name in files:
        if not _NAME.fullmatch(name):
            raise InvalidField("files", "names of letters, digits, dots, hyphens and underscores", name)


class ServerDirectories:
    """Makes and removes them.

    Parameters
    ----------
    root
        Where they lie.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def close(self) -> None:
        """Leave no empty place behind; servers that go on keep theirs."""
        with contextlib.suppress(OSError):
            self._root.rmdir()

    def path(self, lease: str) -> Path:
        """Return where a server's directory is, or would be."""
        return self._root / check_lease(lease)

    def create(self, lease: str, files: Mapping[str, str], owner: tuple[int, int] | None = None) -> Path:
        """Make a server's directory anew, with `files` by name, owned by the user and group ids of `owner`."""
        check_files(files)
        self.remove(lease)
        for folder in (RUN, self._root) if self._root.is_relative_to(RUN) else (self._root,):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            if owner is not None:
                # The mode of mkdir is less noded's umask, and accounts must get through to their own.
                folder.chmod(0o711)
        path = self.path(lease)
        path.mkdir(mode=0o700)
        for name, text in files.items():
            self.write(lease, name, text, owner)
        if owner is not None:
            os.chown(path, *owner)
        return path

    def write(self, lease: str, name: str, text: str, owner: tuple[int, int] | None = None) -> None:
        """Write a file of a server; a reader sees the old one or the new one, never a part.

        Raises
        ------
        OSError
            There is no such directory, or it is full.
        """
        check_files([name])
        folder = os.open(self.path(lease), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        new = f".{secrets.token_hex(8)}"
        try:
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                if owner is not None:
                    os.fchown(file.fileno(), *owner)
            os.replace(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise
        finally:
            os.close(folder)

    def discard(self, lease: str, name: str) -> None:
        """Remove a file of a server; one that is not there is fine.

        Raises
        ------
        OSError
            There is no such directory.
        """
        check_files([name])
        folder = os.open(self.path(lease), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)

    def owner(self, lease: str) -> tuple[int, int]:
        """Return the user and group ids that a server's directory belongs to."""
        found = self.path(lease).stat()
        return found.st_uid, found.st_gid

    def remove(self, lease: str) -> None:
        """Remove a server's directory and what is in it; one that is not there is fine."""
        try:
            shutil.rmtree(self.path(lease), ignore_errors=True)
        except RecursionError:
            # A server may nest folders deeper than this can follow; its GPUs must be given back all the same.
            log.warning(LogLine("server's directory stays: its folders are nested too deep", lease=lease))
