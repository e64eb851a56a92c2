"""Which start is warm and which is cold, and that there always is one."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from noded_process import NodedError
from secrets_scan import Scan
from waiting import eventually
from warm_farm import SERVER, Served, WarmFarm, warm_farm

from jupyterhub_agentfarm.noded import procfs

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]


PROBE = Path(__file__).parents[3] / "warm_probe.py"


def zygote(farm: WarmFarm) -> procfs.Process:
    """Return the newest zygote of a noded."""
    assert farm.noded.process
    children = [found for found in procfs.scan().values() if found.ppid == farm.noded.process.pid]
    zygotes = [found for found in children if b"noded.warm.zygote" in procfs_file(found.pid, "cmdline")]
    return max(zygotes, key=lambda found: found.start_ticks)


@pytest.mark.parametrize(
    ("variables", "changes", "reason"),
    [
        ({"LD_LIBRARY_PATH": "/opt/lib"}, {}, "variables"),
        ({"PYTHONDONTWRITEBYTECODE": "1"}, {}, "variables"),
        ({"MALLOC_ARENA_MAX": "2"}, {}, "variables"),
        ({}, {"socket": "port"}, "program"),
        ({}, {"command": [SERVER[0], "-c", "import time; time.sleep(1000)"]}, "program"),
    ],
)
async def test_what_a_fork_cannot_give_is_started_cold(
    farm: WarmFarm, variables: dict[str, str], changes: dict[str, object], reason: str
) -> None:
    """Each such start is cold, with its reason counted."""
    lease = f"lease-{uuid4().hex}"
    before = (await farm.counts())[1].get(reason, 0)
    spec = {"environment": {**farm.environment("quokka", farm.folder), **variables}, "base_url": "/user/quokka/"}
    await farm.noded.launch(lease, **{"command": list(SERVER), **spec, **changes}, timeout=90)
    assert (await farm.counts())[1][reason] == before + 1
    await farm.noded.call("stop", {"lease": lease, "grace_seconds": 0}, timeout=30)


async def test_a_variable_that_was_read_before_the_fork_is_learned(farm: WarmFarm) -> None:
    """A start with it is cold, and a zygote is made that leaves the modules that read it to each server (leak 3)."""
    variables = {"JUPYTERHUB_METRICS_PREFIX": "quokka"}
    first = await farm.start("quokka-one", variables=variables)
    assert not first.warm

    async def warm_now() -> Served | None:
        served = await farm.start("quokka-two", variables=variables)
        if not served.warm:
            await farm.stop(served)
        return served if served.warm else None

    served = await eventually(warm_now, "a warm start with the variable", timeout=200, interval=2)
    assert b"JUPYTERHUB_METRICS_PREFIX=quokka\0" in served.proc("environ")


async def test_a_server_that_fails_when_it_is_forked_is_tried_cold(farm: WarmFarm) -> None:
    """The user notices nothing: the same lease, the same port, one answer; and it is counted."""
    home = farm.folder / "quokka-shy"
    (home / ".jupyter").mkdir(parents=True)
    (home / "fails-when-forked").touch()
    (home / ".jupyter" / "jupyter_server_config.py").write_text(PROBE.read_text())
    before = (await farm.counts())[1].get("failed", 0)
    served = await farm.start("quokka-shy")
    assert not served.warm
    assert (await farm.counts())[1]["failed"] == before + 1
    assert "tried cold" in farm.noded.log
    await farm.stop(served)


async def test_a_server_that_fails_both_ways_is_a_failed_launch_once(farm: WarmFarm) -> None:
    """What cannot be done says so in the sentence of a cold start, and leaves nothing."""
    with pytest.raises(NodedError, match="the working directory /no/such does not exist on this node"):
        await farm.start("quokka-lost", cwd="/no/such")
    statuses = (await farm.noded.call("servers"))["servers"]
    assert "lease-of-quokka-lost" not in {status["lease"] for status in statuses}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGKILL, None), (signal.SIGABRT, None)])
async def test_ends_are_told_as_those_of_cold_servers(farm: WarmFarm, number: signal.Signals, code: int | None) -> None:
    """Exit status or signal come as an event at once, and the process is reaped."""
    served = await farm.start(f"quokka-{number.name}")
    assert served.warm
    os.kill(served.pid, number)
    assert farm.noded.client
    client = farm.noded.client
    (ended,) = await eventually(
        lambda: [status for status in client.exits if status["lease"] == served.lease], "noded tells of the end"
    )
    exit_ = ended["exit"]
    assert (exit_["cause"], exit_["code"], exit_["signal"]) == (
        ("exited", 0, None) if code == 0 else ("signal", None, int(number))
    )
    await eventually(lambda: procfs.read(served.pid) is None, "it is reaped")


async def test_limits_hold_and_gpus_are_pinned(farm: WarmFarm) -> None:
    """A forked server is in its cgroups before anything of it runs, and sees the leased GPUs only (leak 6)."""
    telemetry = await farm.noded.call("telemetry")
    gpu = telemetry["gpus"][0]["uuid"]
    served = await farm.start("quokka-bound", gpus=[gpu], limits={"memory_bytes": 2**30})
    assert served.warm
    assert f"CUDA_VISIBLE_DEVICES={gpu}".encode() in served.proc("environ").split(b"\0")
    assert f"/agentfarm/{served.lease}\n".encode() in served.proc("cgroup")
    assert limits_of(served) in ([str(2**30)], []), "no version 1 cgroups: other limiters have tests of their own"
    await farm.stop(served)


def limits_of(served: Served) -> list[str]:
    """Return the limits of memory of a server's version 1 cgroups."""
    found = Path("/sys/fs/cgroup").glob(f"**/{served.lease}/memory.limit_in_bytes")
    return [path.read_text().strip() for path in found]


async def test_nothing_of_a_user_is_left_in_the_zygote(farm: WarmFarm) -> None:
    """After a hundred forks for a hundred users, neither its memory nor what /proc shows of it has their secrets."""
    secrets = {}
    for number in range(100):
        user = f"quokka-{number}"
        secrets[user] = f"secret-{os.urandom(12).hex()}"
        with pytest.raises(NodedError):
            await farm.launch(user, f"lease-{number}", {"JUPYTERHUB_API_TOKEN": secrets[user]}, cwd="/no/such")
    real = f"secret-{os.urandom(12).hex()}"
    served = await farm.start("quokka-real", variables={"JUPYTERHUB_API_TOKEN": real})
    assert served.warm
    scan = Scan()
    process = zygote(farm)
    scan.note("memory", memory(process.pid))
    scan.note("environ", procfs_file(process.pid, "environ"))
    scan.note("cmdline", procfs_file(process.pid, "cmdline"))
    assert scan.found({**secrets, "real": real}) == set()
    assert real.encode() in memory(served.pid), "the search finds what is there"
    await farm.stop(served)


def procfs_file(pid: int, name: str) -> bytes:
    """Return a file of a process."""
    return Path(f"/proc/{pid}/{name}").read_bytes()


def memory(pid: int) -> bytes:
    """Return what a process can write to in its memory."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb") as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, last, mode = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()  # type: ignore[union-attr]
            if mode.startswith("rw"):
                file.seek(int(first, 16))
                found.append(file.read(int(last, 16) - int(first, 16)))
    return b"".join(found)


# ---- what ends, and goes on ------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def other(tmp_path: Path) -> AsyncIterator[WarmFarm]:
    """A farm of the test's own, warm."""
    async with warm_farm(tmp_path) as made:
        await made.stop(await made.start("quokka-first"), 0)
        await made.until_warm()
        yield made


async def test_servers_outlive_zygote_and_noded(other: WarmFarm) -> None:
    """A zygote that is killed takes no server with it, nor does noded; the next noded adopts them and is warm again."""
    served = await other.start("quokka-lives")
    assert served.warm
    os.kill(zygote(other).pid, signal.SIGKILL)
    second = await other.start("quokka-second")
    assert not second.warm
    assert (await served.get("api")).status_code == 200
    await other.until_warm()
    old = zygote(other)
    await other.noded.end(signal.SIGKILL)
    await eventually(lambda: not procfs.alive(old.pid, old.start_ticks), "the zygote ends with its noded")
    assert (await served.get("api")).status_code == 200
    await other.noded.start()
    statuses = {one["lease"]: one for one in (await other.noded.call("servers"))["servers"]}
    assert (statuses[served.lease]["pid"], statuses[served.lease]["state"]) == (served.pid, "running")
    await eventually(lambda: other.noded.client.telemetry, "noded reports")  # type: ignore[union-attr]
    await other.until_warm()
    await other.stop(served)
    assert (await other.start("quokka-third")).warm


async def test_turned_off_everything_is_cold(tmp_path: Path) -> None:
    """With the option off no zygote is made, noded adopts no orphans, and the reason is "off"."""
    async with warm_farm(tmp_path, "--NodedApp.warm_servers=False") as made:
        served = await made.start("quokka")
        assert not served.warm
        assert (await made.warm_starts())["state"] == "off"
        assert (await made.counts()) == (0, {"off": 1})
        await made.stop(served, 0)
