"""A report as PDF, printed by a Chromium where there is one.

The page that is printed has its styles and drawings inside, forbids everything else by its own policy, and holds
texts from nodes, notebooks and users as text alone. The browser is told besides to resolve no name and to send all
requests to a proxy that there is none of. Its profile and what it makes are in a folder of its own, which is removed;
it is ended with all its processes when its time is up. One that ends well without having printed is asked once more,
for as long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from pathlib import Path

from ...errors import ConflictError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: How long one report may take to print, in seconds.
PRINT_SECONDS = 60.0
_ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--metrics-recording-only",
    "--password-store=basic",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
    "--no-pdf-header-footer",
    "--hide-scrollbars",
)
#: As much of what Chromium complained about is told.
_COMPLAINT_CHARACTERS = 300


class _NothingPrinted(ConflictError):
    """The browser ended as if all was well, and there is no file."""


def find_chromium() -> str | None:
    """Return the path of a Chromium on this machine; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


async def print_pdf(html: str, program: str | None = None, seconds: float = PRINT_SECONDS) -> bytes:
    """Return a page as PDF.

    Parameters
    ----------
    program
        Path of the Chromium; None: one on the PATH.
    seconds
        After so long it is given up.

    Raises
    ------
    ConflictError
        There is no Chromium, or it did not print in time.
    """
    program = program or await asyncio.to_thread(find_chromium)
    if program is None:
        raise ConflictError(f"no PDF: none of {', '.join(PROGRAMS)} is on the PATH of the service; install Chromium")
    folder = await asyncio.to_thread(tempfile.mkdtemp, prefix="agentfarm-")
    try:
        await asyncio.to_thread((Path(folder) / "report.html").write_text, html, "utf-8")
        try:
            return await _print(program, Path(folder), seconds)
        except _NothingPrinted:  # on a busy machine a Chromium ends well now and then without having printed
            return await _print(program, Path(folder), seconds)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _print(program: str, folder: Path, seconds: float) -> bytes:
    output = folder / "report.pdf"
    arguments = [*_ARGUMENTS, f"--user-data-dir={folder / 'profile'}", f"--print-to-pdf={output}"]
    if os.geteuid() == 0:  # Chromium refuses to sandbox what root starts
        arguments.append("--no-sandbox")
    try:
        process = await asyncio.create_subprocess_exec(
            *(program, *arguments, (folder / "report.html").as_uri()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(folder),
            start_new_session=True,
        )
    except OSError as exc:
        raise ConflictError(f"no PDF: {program} could not be started: {exc}") from exc
    try:
        _, complaints = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        raise ConflictError(f"no PDF: {program} did not print the report within {seconds:g} s") from None
    finally:
        await _end(process)
    try:
        return await asyncio.to_thread(output.read_bytes)
    except OSError:
        said = complaints.decode(errors="replace").strip()[-_COMPLAINT_CHARACTERS:]
        kind = ConflictError if process.returncode else _NothingPrinted
        raise kind(f"no PDF: {program} ended with {process.returncode} and printed nothing: {said}") from None


def _environment(folder: Path) -> dict[str, str]:
    """Return what Chromium needs of the environment, and nothing of the service's secrets."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "FONTCONFIG_PATH") if name in os.environ}
    return {**kept, "HOME": str(folder), "TMPDIR": str(folder)}


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the browser with all its processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 5)
