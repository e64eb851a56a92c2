"""OpenAI's Agents SDK, an agent framework of others, in an environment of its own: it brings its own versions along.

The environment is kept in the repository's .cache; `framework_agent.py` is the program that is run in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = "openai-agents==0.24.0"
PROGRAM = Path(__file__).with_name("framework_agent.py")
FOLDER = Path(__file__).parents[1] / ".cache" / "openai-agents-0.24.0"
_INSTALL_SECONDS = 240


def why_no_framework() -> str | None:
    """Return why the framework is not to be had here, or None; it is installed where it is not there."""
    FOLDER.parent.mkdir(exist_ok=True)
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = FOLDER / "ready"
        if not ready.exists():
            try:
                _install()
            except (subprocess.SubprocessError, OSError) as exc:
                shutil.rmtree(FOLDER, ignore_errors=True)
                return f"{PACKAGE} cannot be installed: {type(exc).__name__}"
            ready.touch()
    return None


def _install() -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True, timeout=60)
    pip = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, PACKAGE], check=True, timeout=_INSTALL_SECONDS, capture_output=True)


async def run_framework(task: str, **environment: str) -> str:
    """Have an agent of the framework solve a task; return its answer."""
    process = await asyncio.create_subprocess_exec(
        str(FOLDER / "bin" / "python"),
        str(PROGRAM),
        task,
        env={"PATH": os.environ["PATH"], "HOME": str(FOLDER), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(150):
        answer, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-4000:]
    return answer.decode()
