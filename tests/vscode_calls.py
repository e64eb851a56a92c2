"""VS Code's calls to a Hub, made by its own libraries on Node; see vscode/calls.cjs.

What npm installs for it is kept beside the proxy in the tests' cache, by the lock file's digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hub_process import proxy_cache

from jupyterhub_agentfarm.demo import proxy
from jupyterhub_agentfarm.errors import ConfigError

RECIPE = Path(__file__).parent / "vscode"
#: What a start is given from the Hub's answer on. The extension gives it ten seconds; machines that run tests are busy.
PATIENCE_SECONDS = 60
_FILES = ("package.json", "package-lock.json")


def why_no_vscode() -> str | None:
    """Return why VS Code's libraries are not to be had here, or None."""
    try:
        node_modules()
    except ConfigError as exc:
        return exc.message
    return None


def node_modules() -> Path:
    """Return the folder of the installed packages, installing them when there is none.

    Raises
    ------
    ConfigError
        There is no Node, or the registry is not reached.
    """
    node, npm = proxy._node_and_npm()
    cache = proxy_cache()
    digest = hashlib.sha256((RECIPE / "package-lock.json").read_bytes()).hexdigest()[:12]
    final = cache / f"vscode-{digest}"
    with proxy._locked(cache / "vscode.lock"):
        if not final.exists():
            _install([node, npm], final)
    return final / "node_modules"


def _install(npm: list[str], final: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=final.parent) as staging:
        stage = Path(staging, "stage")
        stage.mkdir()
        for name in _FILES:
            shutil.copyfile(RECIPE / name, stage / name)
        proxy._run_npm([*npm, "ci", *proxy._NPM_OPTIONS, f"--cache={staging}/npm-cache"], stage)
        stage.rename(final)


async def vscode(
    url: str, user: str, token: str, server: str = "", patience: float = PATIENCE_SECONDS, timeout: float = 150
) -> dict[str, Any]:
    """Make all of VS Code's calls for one server and return what the script reports.

    Parameters
    ----------
    url
        The Hub's.
    user, token
        Whose server, and the API token that was pasted into VS Code.
    server
        Name of the server; "" is the default one.
    patience
        Seconds that a start may take after the Hub has answered the request for it.
    timeout
        Seconds for everything.
    """
    node, _ = proxy._node_and_npm()
    process = await asyncio.create_subprocess_exec(
        node,
        str(RECIPE / "calls.cjs"),
        env={"NODE_PATH": str(await asyncio.to_thread(node_modules)), "PATH": "/usr/bin:/bin"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    wanted = {"url": url, "user": user, "token": token, "server": server, "notebook": "analysis", "patience": patience}
    loop = asyncio.get_running_loop()
    overdue = loop.call_later(timeout, process.terminate)  # then it reports how far it came
    try:
        out, err = await process.communicate(json.dumps(wanted).encode())
    finally:
        overdue.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
    sys.stderr.write(err.decode())
    assert out, f"it ended with status {process.returncode}"
    report: dict[str, Any] = json.loads(out)
    return report
