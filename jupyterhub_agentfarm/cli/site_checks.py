"""The doctor's checks of this machine: configuration file, runtime directory, proxy, databases.

The configuration file is Python and may do anything, so it is read in a process of its own, as the Hub reads it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..services.local import find_service
from .findings import Finding, fail, ok, warn

_CONFIG_SECONDS = 60
_REQUEST_SECONDS = 5

#: Reads a configuration file and prints the options that the doctor looks at.
_READ_CONFIG = """
import json, os, sys
from traitlets.config.loader import PyFileConfigLoader
from jupyterhub_agentfarm.cli.login_checks import KEY, logins_of
path = os.path.abspath(sys.argv[1])
config = PyFileConfigLoader(os.path.basename(path), path=os.path.dirname(path)).load_config()
names = [("JupyterHub", "bind_url"), ("JupyterHub", "ip"), ("JupyterHub", "port"), ("JupyterHub", "ssl_cert"),
         ("JupyterHub", "db_url"), ("JupyterHub", "spawner_class"), ("ServiceApp", "runtime_dir"),
         ("ControllerApp", "db_url"), ("BenchmarkApp", "db_url"),
         ("AgentsApp", "db_url")]
found = {f"{c}.{n}": config[c][n] for c, n in names if c in config and n in config[c]}
services = config.JupyterHub.services if "services" in config.JupyterHub else []
for service in services if isinstance(services, list) else []:
    folder = service.get("environment", {}).get("AGENTFARM_DATA_DIR")
    app = {"agentfarm": "ControllerApp", "benchmark": "BenchmarkApp", "agents": "AgentsApp"}.get(service.get("name"))
    if folder and app:
        found.setdefault(f"{app}.db_url", f"sqlite:///{folder}/{service['name']}.sqlite")
logins = logins_of(config)
if logins:
    found[KEY] = logins
print(json.dumps(found, default=str))
"""

Settings = Mapping[str, Any]


async def read_config(path: Path) -> tuple[Settings, Finding]:
    """Return the settings of the configuration file, and the finding about it."""
    check = "config"
    if not os.path.exists(path):  # noqa: ASYNC240, PTH110 - one look at a local file
        mend = "name it with -f, or run the doctor in its directory"
        return {}, warn(check, f"there is no {path}", mend)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", _READ_CONFIG, str(path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_CONFIG_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return {}, fail(check, f"{path} is not done after {_CONFIG_SECONDS} s", "see what it waits for")
    if process.returncode:
        said = (err.decode(errors="replace").strip().splitlines() or ["it ended without a word"])[-1]
        return {}, fail(check, f"{path} cannot be loaded: {said}", "mend the line that Python names")
    settings = json.loads(out.splitlines()[-1])
    if settings.get("JupyterHub.spawner_class") is None:
        mend = "call `jupyterhub_agentfarm.configure(c)` at its end"
        return settings, warn(check, f"{path} does not set up the farm", mend)
    return settings, ok(check, f"{path} loads")


def check_runtime_dir(path: Path) -> list[Finding]:
    """Return whether the runtime directory and the token in it are private and there."""
    check, token = "runtime directory", path / "token"
    if not path.is_dir():
        mend = "start the Hub, which makes it, or name the right one with --runtime-dir"
        return [fail(check, f"there is no {path}", mend)]
    status = path.stat()
    if status.st_uid != os.geteuid():
        mend = "run the doctor as the account of the Hub"
        return [fail(check, f"{path} belongs to the account {status.st_uid}", mend)]
    if status.st_mode & 0o077:
        mode = stat.filemode(status.st_mode)
        return [fail(check, f"others may enter {path} ({mode})", f"run `chmod 700 {path}`")]
    findings = [ok(check, f"{path} is private")]
    if not token.exists():
        findings.append(fail("local token", f"there is no {token}", "start the Hub, which makes it"))
    elif token.stat().st_mode & 0o077:
        mend = f"run `rm {token}` and restart the Hub: others may have read it"
        findings.append(fail("local token", f"others may read {token}", mend))
    else:
        findings.append(ok("local token", "there, and private"))
    return findings


def hub_url(settings: Settings) -> str:
    """Return where the proxy listens, as the configuration says.

    The Hub takes the scheme of `bind_url` from whether there is an `ssl_cert`, so that is done here too.
    """
    bind = settings.get("JupyterHub.bind_url")
    where = urlsplit(bind or "")
    scheme = "https" if settings.get("JupyterHub.ssl_cert") else "http"
    host = (where.hostname if bind else settings.get("JupyterHub.ip")) or "127.0.0.1"
    port = (where.port if bind else settings.get("JupyterHub.port")) or 8000
    host = "127.0.0.1" if host in {"*", "0.0.0.0", "::"} else host
    return f"{scheme}://{host}:{port}{where.path.rstrip('/')}"


async def check_proxy(settings: Settings) -> Finding:
    """Return whether the Hub answers through the proxy, or what has its port."""
    import aiohttp

    check, url = "proxy", hub_url(settings)
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    # A certificate is for the public name, not for this address; nothing secret is sent.
    connector = aiohttp.TCPConnector(ssl=False)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(f"{url}/hub/health") as response,
        ):
            status, name = response.status, response.headers.get("X-JupyterHub-Version")
    except aiohttp.ClientConnectorError:
        mend = "start the Hub (`jupyterhub -f jupyterhub_config.py`) and see its log if it does not stay"
        return fail(check, f"nothing listens at {url}", mend)
    except (aiohttp.ClientError, TimeoutError) as exc:
        mend = "restart the Hub, which restarts the proxy"
        return fail(check, f"{url} does not answer as a Hub does ({type(exc).__name__})", mend)
    if status == 503:
        return fail(check, f"the proxy at {url} does not reach the Hub", "see the Hub's log; it may have ended")
    if name is None:
        mend = "give c.JupyterHub.bind_url another port, or stop the program that has this one"
        return fail(check, f"something else listens at {url}", mend)
    return ok(check, f"JupyterHub {name} answers at {url}")


def check_announced(runtime_dir: Path, service: str) -> Finding:
    """Return whether the service's port is the service's: a process that is gone leaves its announcement."""
    check = f"port of {service}"
    where = urlsplit(find_service(runtime_dir, service))
    address = (where.hostname or "127.0.0.1", where.port or 80)
    try:
        socket.create_connection(address, _REQUEST_SECONDS).close()
    except OSError as exc:
        mend = f"start the Hub, or see its log for why the service {service} ended"
        return fail(check, f"nothing listens at {address[0]}:{address[1]} ({exc.strerror})", mend)
    return ok(check, f"{address[0]}:{address[1]} answers")


async def check_databases(settings: Settings, folder: Path) -> list[Finding]:
    """Return whether each database that the configuration names can be reached."""
    urls = {name: settings[name] for name in settings if name.endswith(".db_url")}
    return [await asyncio.to_thread(_check_database, name, str(url), folder) for name, url in sorted(urls.items())]


def _check_database(name: str, text: str, folder: Path) -> Finding:
    import sqlalchemy as sa

    check = f"database {name}"
    mend = f"see that c.{name} names a database that is up and that this account may use"
    try:
        url = sa.make_url(text)
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            return _check_sqlite(check, folder / url.database)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, connect_args={"connect_timeout": _REQUEST_SECONDS})
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        engine.dispose()
    except (sa.exc.SQLAlchemyError, ImportError, OSError) as exc:
        lines = str(getattr(exc, "orig", None) or type(exc).__name__).strip().splitlines()
        return fail(check, f"cannot be reached: {lines[0] if lines else type(exc).__name__}", mend)
    return ok(check, f"{url.get_backend_name()} answers")


def _check_sqlite(check: str, path: Path) -> Finding:
    """Look at an SQLite file without making it."""
    if not path.exists():
        if os.access(path.parent, os.W_OK):
            return ok(check, f"{path} will be made at the first start")
        return fail(check, f"{path.parent} is not there or cannot be written", "make it, or give it to this account")
    try:
        connection = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=_REQUEST_SECONDS)
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.close()
    except sqlite3.Error as exc:
        mend = "give the file to the account of the Hub, or restore it from a backup"
        return fail(check, f"{path} cannot be used: {exc}", mend)
    return ok(check, f"{path} can be read and written")
