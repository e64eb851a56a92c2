"""A PostgreSQL server for tests, from Debian's package: its own directory, a unix socket and no port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def missing() -> str | None:
    """Return why no server can be started here, or None."""
    if _bin() is None:
        return "PostgreSQL's server programs are not installed (/usr/lib/postgresql/*/bin)"
    if os.geteuid() == 0 and _account() is None:
        return "root cannot run PostgreSQL, and there is no account postgres"
    return None


def _bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


class Cluster:
    """One server and its directory, as an administrator has it; made by :func:`cluster`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"postgresql://postgres@/postgres?host={directory}"
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            account = _account()
            assert account is not None
            os.chown(directory, account.pw_uid, account.pw_gid)
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def make(self) -> None:
        """Make the data directory."""
        self._run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8")

    def start(self) -> None:
        """Start the server and return when it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.directory}' -c fsync=off"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self.directory / "log"), "start")

    def stop(self) -> None:
        """End the server at once, as a crash does: whatever goes on in it is undone."""
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        programs = _bin()
        assert programs is not None
        command = [*self._as_user, str(programs / program), "-D", str(self.directory / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.directory, timeout=60)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a server."""
    made = Cluster(Path(tempfile.mkdtemp(prefix="afpg")))
    try:
        made.make()
        made.start()
        yield made
    finally:
        with suppress(subprocess.CalledProcessError):  # it does not run
            made.stop()
        shutil.rmtree(made.directory, ignore_errors=True)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server; yield the SQLAlchemy URL of an empty database."""
    with cluster() as made:
        yield made.url
