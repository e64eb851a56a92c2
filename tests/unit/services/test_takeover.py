"""A second process of a service takes over from the first, and nothing else is ever signalled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from waiting import eventually

from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.errors import ConflictError
from jupyterhub_agentfarm.noded import procfs
from jupyterhub_agentfarm.records import to_json
from jupyterhub_agentfarm.services.takeover import Holder, ServiceLock

HOLD = """
import asyncio, pathlib, signal, sys
from jupyterhub_agentfarm.services.takeover import ServiceLock
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
async def main():
    await ServiceLock(pathlib.Path(sys.argv[1])).take()
    print("held", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def holder(path: Path, kind: str) -> asyncio.subprocess.Process:
    """Start a process that holds the lock."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(path), kind, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert await process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize(("kind", "status"), [("polite", -signal.SIGTERM), ("stubborn", -signal.SIGKILL)])
async def test_the_older_process_ends(tmp_path: Path, kind: str, status: int) -> None:
    """The older holder gets SIGTERM, and SIGKILL when it does not end; then the lock is ours, signed with our pid."""
    path = tmp_path / "lock"
    older = await holder(path, kind)
    lock = ServiceLock(path, grace_seconds=0.5)
    await lock.take()
    await older.communicate()
    assert older.returncode == status
    signed = json.loads(path.read_text())
    ourselves = procfs.read(os.getpid())
    assert ourselves
    # Nothing of it is a time of day, which a step of the clock would change.
    assert (signed["pid"], signed["start_ticks"], signed["boot_id"]) == (
        os.getpid(),
        ourselves.start_ticks,
        procfs.boot_id(),
    )
    lock.release()
    lock.release()


@pytest.mark.parametrize(("ticks", "boot"), [(-1, None), (0, "another boot")])
async def test_a_reused_pid_is_not_signalled(tmp_path: Path, ticks: int, boot: str | None) -> None:
    """When the file names a process of another start or boot, that process is left alone and the taker gives up."""
    path = tmp_path / "lock"
    older = await holder(path, "polite")
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    found = procfs.read(bystander.pid)
    assert found
    named = Holder(bystander.pid, found.start_ticks + ticks, boot or procfs.boot_id(), "external")
    path.write_text(json.dumps(to_json(named)))
    with pytest.raises(ConflictError, match="stop it, then start again"):
        await ServiceLock(path, grace_seconds=0.1).take()
    assert bystander.returncode is None
    assert older.returncode is None
    for process in (bystander, older):
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("ours", ["managed", "external"])
async def test_the_hub_and_systemd_do_not_take_over_from_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: str
) -> None:
    """A holder that somebody else started, and would start again, is left alone; the refusal names it."""
    path = tmp_path / "lock"
    with monkeypatch.context() as hub:
        if ours == "external":
            hub.setenv("JUPYTERHUB_SERVICE_NAME", "agentfarm")
        older = await holder(path, "polite")
    if ours == "managed":
        monkeypatch.setenv("JUPYTERHUB_SERVICE_NAME", "agentfarm")
    with pytest.raises(ConflictError, match=f"process {older.pid}, which .*one place only"):
        await ServiceLock(path, grace_seconds=1).take()
    assert older.returncode is None
    older.kill()
    await older.communicate()


class Service:
    """A controller as a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, url: str) -> asyncio.subprocess.Process:
        """Start a controller that listens at `url`."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("JUPYTERHUB_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "jupyterhub_agentfarm.controller", f"--runtime-dir={self.directory / 'run'}", f"--url={url}"),
            cwd=self.directory,
            env=environment,
        )
        self.processes.append(process)
        return process


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Start controllers, and end them."""
    made = Service(tmp_path)
    yield made
    for process in made.processes:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_controller_takes_over(service: Service) -> None:
    """A second controller on the same port ends the first cleanly, serves there, and ends on SIGTERM with status 0."""
    client = FarmClient(runtime_dir=str(service.directory / "run"))

    async def answers() -> bool:
        return announced.exists() and await client.nodes() == []

    announced = service.directory / "run" / "agentfarm.json"
    first = await service.start("http://127.0.0.1:0")
    await eventually(answers, "the first controller answers", timeout=30)
    url = client._base()
    announced.unlink()
    second = await service.start(url.partition("/services")[0])
    await eventually(answers, "the second controller answers", timeout=30)
    assert client._base() == url
    assert await first.wait() == 0
    assert (service.directory / "agentfarm.sqlite").stat().st_mode & 0o777 == 0o600
    second.terminate()
    assert await second.wait() == 0
    await client.aclose()
