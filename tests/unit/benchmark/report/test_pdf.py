"""Reports printed by a real Chromium."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmark_records import soak_page

from jupyterhub_agentfarm.benchmark.report.pdf import find_chromium, print_pdf
from jupyterhub_agentfarm.errors import ConflictError


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make the folder in which temporary ones are made this test's own; a socket's path there must not be long."""
    with tempfile.TemporaryDirectory(prefix="af-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.browser
@pytest.mark.timeout(180)
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the PATH")
async def test_a_report_is_printed(temporary: Path) -> None:
    """A report becomes a PDF of some pages, and nothing is left behind."""
    printed = await print_pdf(await asyncio.to_thread(soak_page), None, 150)
    assert printed.startswith(b"%PDF-")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") + printed.count(b"/Type/Page") >= 3
    assert os.listdir(temporary) == []  # noqa: PTH208


@pytest.mark.browser
@pytest.mark.timeout(180)
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the PATH")
async def test_printing_fetches_nothing() -> None:
    """Even a page that asks for it, without a policy of its own, gets nothing from a server or from a script."""
    asked: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(note, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        page = (
            f'<img src="{url}/img"><img src="http://localhost:{port}/name"><iframe src="{url}/frame"></iframe>'
            f'<link rel="stylesheet" href="{url}/css"><script>fetch("{url}/js")</script>'
            f'<meta http-equiv="refresh" content="0; url={url}/refresh">text'
        )
        assert (await print_pdf(page, None, 150)).startswith(b"%PDF-")
    assert asked == []


def program(folder: Path, text: str) -> str:
    """Return the path of a program that stands for Chromium."""
    path = folder / "browser"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


async def test_a_browser_that_hangs_is_ended(tmp_path: Path, temporary: Path) -> None:
    """After its time is up the browser is gone with what it started, and the refusal says so."""
    children = tmp_path / "children"
    hanging = program(tmp_path, f"sleep 600 & echo $! > {children}; wait")
    with pytest.raises(ConflictError, match=r"did not print the report within 0\.5 s"):
        await print_pdf("<p>", hanging, 0.5)
    assert not alive(int(await asyncio.to_thread(children.read_text)))
    assert os.listdir(temporary) == []  # noqa: PTH208


async def test_a_browser_that_prints_nothing(tmp_path: Path, temporary: Path) -> None:
    """A browser that fails is quoted."""
    failing = program(tmp_path, "echo cannot open display >&2; exit 3")
    with pytest.raises(ConflictError, match="ended with 3 and printed nothing: cannot open display"):
        await print_pdf("<p>", failing, 20)


async def test_a_browser_that_ends_without_printing_is_asked_once_more(tmp_path: Path, temporary: Path) -> None:
    """As Chromium ends now and then on a busy machine; the second time it is a failure."""
    tries = tmp_path / "tries"
    prints = 'for word; do case $word in --print-to-pdf=*) echo "%PDF" > "${word#*=}";; esac; done'
    forgetful = program(tmp_path, f"echo x >> {tries}; [ $(wc -l < {tries}) = 1 ] || {prints}")
    assert await print_pdf("<p>", forgetful, 20) == b"%PDF\n"
    tries.unlink()
    with pytest.raises(ConflictError, match="ended with 0 and printed nothing"):
        await print_pdf("<p>", program(tmp_path, f"echo x >> {tries}"), 20)
    assert tries.read_text() == "x\nx\n"
    assert os.listdir(temporary) == []  # noqa: PTH208


async def test_the_browser_knows_no_secrets(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's token is not in the browser's environment."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "very-secret")
    kept = tmp_path / "environment"
    with pytest.raises(ConflictError):
        await print_pdf("<p>", program(tmp_path, f"env > {kept}"), 20)
    assert "PATH=" in kept.read_text()
    assert "very-secret" not in kept.read_text()


async def test_cancelling_ends_the_browser(tmp_path: Path, temporary: Path) -> None:
    """Who asked for the PDF and went away leaves no browser running."""
    children = tmp_path / "children"
    os.mkfifo(children)
    printing = asyncio.create_task(print_pdf("<p>", program(tmp_path, f"echo $$ > {children}; exec sleep 600"), 60))
    pid = int(await asyncio.to_thread(children.read_text))
    printing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await printing
    assert not alive(pid)


def alive(pid: int) -> Any:
    """Return whether a process executes; one that ended and waits to be reaped does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
