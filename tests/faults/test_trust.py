"""Acceptance tests 13 to 16: taken ports, wrong host keys, secrets, and hostile input.

Each is tested in more detail without hosts of its own: tests/integration/test_secrets.py, test_hostile_input.py, and
tests/unit/transport for every way in which a key or certificate can be wrong.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import pytest_asyncio
from faults import faults, starts
from faults.farm import FaultFarm, fault_farm
from secrets_scan import Allowed, Scan
from waiting import eventually

FIRST_PORT = 42_100
PAUSE = "a refused node is tried again every 30 s"
ALLOWED = (Allowed("local token", "*/run/token", "who can read it is the Hub's account"),)
#: Names and options as an attacker would send them, and what of them must never be executed.
CANARY = "/tmp/agentfarm-was-here"
HOSTILE_NAMES = (f"$(touch {CANARY})", f"`touch {CANARY}`", f"; touch {CANARY};", "<script>alert(1)</script>")
HOSTILE_OPTIONS = (
    {"node": f"gpu01; touch {CANARY}"},
    {"gpus": "1"},
    {"gpus": 1.5},
    {"gpus": -1},
    {"gpus": True},
    {"labels": {"a": {"b": "c"}}},
    {"gpu_model": "x" * 1_000_000},
    {"priority": 10**30},
    {"cmd": ["sh", "-c", f"touch {CANARY}"]},
    {"environment": {"LD_PRELOAD": CANARY}},
    {"node": "gpu01\nHost: evil"},
    ["gpus"],
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[FaultFarm]:
    """Run two nodes; a third one, with two ports only, is added by the test of ports."""
    async with fault_farm(3, hold=["gpu03"]) as running:
        await running.add_users("ada", *(f"tiny{i}" for i in range(6)))
        yield running


async def test_ports(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#13: a taken port is passed over, a full range fails with a reason, and nobody can share a server's port."""
    node = farm.node("gpu03")
    await farm.hub.farm.add_node(replace(node.spec, port_range=(FIRST_PORT, FIRST_PORT + 1)))
    await farm.ready("gpu03")
    with faults.port_thief(node, FIRST_PORT):
        await eventually(lambda: _listens(farm, FIRST_PORT), "the thief listens", 10)
        await starts.start(farm, "tiny0", {"node": "gpu03"})
        stranger = [body for _, body in [await farm.get("tiny0", "who")] if "thief" in body]
        with pytest.raises(starts.StartFailed) as full:
            await starts.start(farm, "tiny1", {"node": "gpu03"})
    assert str(FIRST_PORT) in str(full.value)
    shared = 0
    for options in ((), ("SO_REUSEADDR",), ("SO_REUSEPORT",), ("SO_REUSEADDR", "SO_REUSEPORT")):
        with faults.port_thief(node, FIRST_PORT + 1, *options) as thief:
            try:
                shared += await asyncio.to_thread(thief.wait, 5) == 0
            except subprocess.TimeoutExpired:
                shared += 1
        for _ in range(5):
            stranger += [body for _, body in [await farm.get("tiny0", "who")] if "thief" in body]
    kept = [
        figure(13, "requests answered by a stranger", len(stranger), "", 0, "exactly"),
        figure(13, "strangers that could share a server's port", shared, "", 0, "exactly"),
        figure(13, "no port left: told after", full.value.seconds, "s", 10),
    ]
    await farm.empty()
    assert all(kept)


async def _listens(farm: FaultFarm, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(farm.node("gpu03").address, port)
    except OSError:
        return False
    writer.close()
    return True


async def test_a_wrong_host_key(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#14: a node that shows another key is refused before anything is sent, and says so; the other one is used."""
    node = farm.node("gpu01")
    log = node.directory / "sshd.log"
    before = log.stat().st_size
    await asyncio.to_thread(faults.wrong_host_key, node)
    try:
        await farm.status_is("unreachable", "gpu01", timeout=20)
        refused = await eventually(lambda: _detail(farm), "the reason is the key", 20, 0.1)
        await starts.start_all(farm, ["tiny0", "tiny1"])
        used = {server.node for server in farm.servers()}
        logged = log.read_text()[before:]
        asked = await farm.hub.http.get(f"{farm.hub.url}/services/agentfarm/metrics", headers=farm.hub.headers())
        metrics = await asked.text()
    finally:
        await asyncio.to_thread(faults.right_host_key, node)
    begun = time.monotonic()
    await farm.ready("gpu01")
    kept = [
        figure(14, "sessions opened with the wrong key", logged.count("Accepted publickey"), "", 0, "exactly"),
        figure(14, "servers on the refused node", "gpu01" in used, "", 0, "exactly"),
        figure(14, "ready again after the right key is back", time.monotonic() - begun, "s", 35, note=PAUSE),
    ]
    assert "host key" in refused
    assert any('node="gpu01"' in line and "host_key" in line for line in metrics.splitlines()), metrics[:2000]
    await farm.empty()
    assert all(kept)


async def _detail(farm: FaultFarm) -> str:
    node = await farm.hub.farm.node("gpu01")
    return str(node["detail"]) if node["reason"] == "host_key" else ""


async def test_secrets(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#15: a server's token is only in the memory of the server; after a stop that follows a Hub restart it is void."""
    scan = Scan()
    await starts.start(farm, "tiny2", {"node": "gpu02"})
    (server,) = farm.servers()
    token = psutil.Process(server.pid).environ()["JUPYTERHUB_API_TOKEN"]
    local = (Path(farm.hub.environment["AGENTFARM_RUNTIME_DIR"]) / "token").read_text().strip()
    scan.argument_lists()
    await asyncio.to_thread(scan.as_a_stranger)
    await asyncio.to_thread(scan.files, [farm.hub.directory, *(node.directory for node in farm.nodes)])
    for path in ("/hub/api/users/tiny2", "/services/agentfarm/api/v1/leases"):
        async with farm.hub.http.get(farm.hub.url + path, headers=farm.hub.headers()) as answer:
            scan.note(path, await answer.read())
    leaks = scan.leaks({"server's token": token, "local token": local}, ALLOWED)
    status, _ = await farm.hub.api("GET", "/user", token=token)
    assert status == 200
    await farm.hub.restart()
    await farm.hub.ready("tiny2")
    await farm.hub.stop_server("tiny2")
    status, _ = await farm.hub.api("GET", "/user", token=token)
    kept = [
        figure(15, "places with a secret that must not have it", len(leaks), "", 0, "exactly"),
        figure(15, "answer to the token after restart and stop", status, "", 403, "exactly"),
    ]
    await farm.empty()
    assert leaks == []
    assert all(kept)


async def test_hostile_input(farm: FaultFarm, figure: Callable[..., bool]) -> None:
    """#16: what is malformed is refused with 400; what is odd is inert; nothing is executed on Hub or node."""
    answers = [await farm.hub.api("POST", "/users/tiny3/server", options) for options in HOSTILE_OPTIONS]
    errors = sum(status >= 500 for status, _ in answers)
    accepted = sum(status < 400 for status, _ in answers)
    for name in HOSTILE_NAMES:
        status, _ = await farm.hub.api("POST", f"/users/tiny3/servers/{quote(name, safe='')}", {})
        errors += status >= 500
        if status < 400:
            await eventually(lambda name=name: _settled(farm, name), f"the start of {name!r} is over", 30, 0.1)
    executed = [node.name for node in farm.nodes if _exists(node.inside("test", "-e", CANARY))]
    executed += ["hub"] if _exists(["test", "-e", CANARY]) else []
    kept = [
        figure(16, "malformed options accepted", accepted, "", 0, "exactly"),
        figure(16, "answers with a 5xx", errors, "", 0, "exactly"),
        figure(16, "hosts on which something was executed", len(executed), "", 0, "exactly"),
    ]
    await farm.empty()
    assert all(kept), [answer for answer in answers if answer[0] != 400]


async def _settled(farm: FaultFarm, name: str) -> bool:
    model = await farm.hub.model("tiny3", name)
    return model is None or not model["pending"]


def _exists(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
