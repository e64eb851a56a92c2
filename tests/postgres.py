"""A PostgreSQL server for tests, from Debian's package: its own directory, a unix socket and no port."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server; yield the SQLAlchemy URL of an empty database."""
    programs, account = _bin(), _account()
    assert programs is not None
    directory = Path(tempfile.mkdtemp(prefix="afpg"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        assert account is not None
        os.chown(directory, account.pw_uid, account.pw_gid)
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = directory / "data"

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, timeout=60)

    run("initdb", "-D", str(data), "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8")
    options = f"-c listen_addresses='' -c unix_socket_directories='{directory}' -c fsync=off"
    try:
        run("pg_ctl", "-D", str(data), "-w", "-o", options, "-l", str(directory / "log"), "start")
        yield f"postgresql://postgres@/postgres?host={directory}"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(directory, ignore_errors=True)
