"""A benchmark run outlives what happens in hours: its service, the Hub and a node die in the middle of it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
from configured_hub import configured
from hub_process import HubProcess, hub_process
from jupyter_server_process import notebook
from ssh_node import SSHNode, noded_pid, ssh_node
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

AWAY = (OSError, TimeoutError, ValueError, aiohttp.ClientError)
LINES = """
c.BenchmarkApp.suites_dirs = [{suites!r}]
c.Runner.poll_interval = 0.2
c.NodeKeeper.drain_deadline = 1
c.NodeServers.poll_interval = 0.2
c.Inventory.down_after = 10
c.WarmServers.keep_warm = 0
"""
SUITE = """
name = "{name}"
title = "Brief"
sample_interval_seconds = 0.5
timeout_seconds = 120
{how}
[[case]]
name = "brief"
notebook = "brief.ipynb"
timeout_seconds = 60
"""
#: Says in a file that it began and that it ended, and publishes a figure.
CELLS = """
import os, time
from IPython.display import display
log = {log!r}
def say(what):
    with open(log, "a") as file:
        file.write(f"{{os.getpid()}} {{what}}\\n")
say("begun")
time.sleep(0.5)
say("done")
display({{"application/vnd.agentfarm.result+json": {{"status": "ok", "device": "cpu", "primary": "records_per_second",
    "records_per_second": 2.0}}, "text/plain": "done"}}, raw=True)
"""


@dataclass
class BenchmarkHub:
    """A Hub with the benchmark service and two nodes."""

    hub: HubProcess
    nodes: dict[str, SSHNode]
    log: Path

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded answer to a request of the admin's."""
        url = f"{self.hub.url}/services/benchmark/api/v1/{path}"
        headers = self.hub.headers() | {"Connection": "close"}
        timeout = aiohttp.ClientTimeout(total=20)
        async with self.hub.http.request(method, url, json=body, headers=headers, timeout=timeout) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise ValueError(f"{method} {path}: {answer.status} {text}")
            return json.loads(text)

    async def start(self, suite: str, **fields: Any) -> str:
        """Start a run; return its id."""
        self.log.unlink(missing_ok=True)
        return str((await self.request("POST", "runs", {"suite": suite, **fields}))["id"])

    async def until(self, run: str, wanted: Callable[[dict[str, Any]], Any], message: str) -> dict[str, Any]:
        """Return the view of a run once `wanted` is true of it; the service may be away meanwhile."""
        seen: dict[str, Any] = {}

        async def fulfilled() -> bool:
            with suppress(*AWAY):
                seen.clear()
                seen.update(await self.request("GET", f"runs/{run}"))
                return bool(wanted(seen))
            return False

        try:
            await eventually(fulfilled, message, 120, interval=0.1)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{json.dumps(seen, indent=1)[:6000]}") from exc
        return seen

    async def ended(self, run: str) -> dict[str, Any]:
        """Return the view of a run that has ended."""
        return await self.until(run, lambda view: view["state"] not in ("starting", "running"), "it has ended")

    def service(self) -> psutil.Process:
        """Return the one process of the benchmark service."""
        (only,) = self.hub.services("benchmark")
        return only

    async def cancelled(self, run: str) -> dict[str, Any]:
        """Cancel a run and return its view when it has ended and nothing is left of it."""
        await self.request("POST", f"runs/{run}/cancel", {})
        view = await self.ended(run)
        assert (view["state"], view["detail"], view["passed"]) == ("cancelled", "cancelled by admin", False)
        await self.nothing_is_left()
        return view

    async def kill_service(self) -> None:
        """SIGKILL the service; the Hub starts it again."""
        old = self.service()
        old.kill()
        await eventually(lambda: not old.is_running() or old.status() == "zombie", "it is gone")

    async def nothing_is_left(self) -> None:
        """Return when the benchmark has no server, no lease and no node for itself."""

        async def left() -> list[Any]:
            try:
                _, user = await self.hub.api("GET", "/users/benchmark?include_stopped_servers")
                leases = [lease for lease in await self.hub.farm.leases() if lease.owner == "benchmark"]
                marked = [node["name"] for node in await self.hub.farm.nodes() if not node["eligible"]]
            except AWAY as exc:
                return [exc]
            return [*filter(None, user["servers"]), *leases, *marked]

        seen: list[Any] = []

        async def clean() -> bool:
            seen[:] = await left()
            return not seen

        try:
            await eventually(clean, "nothing is left", 60, interval=0.2)
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{seen}") from exc

    async def all_eligible(self) -> bool:
        """Whether all nodes take servers."""
        return all(node["eligible"] for node in await self.hub.farm.nodes())

    async def lose_power(self, node: str) -> None:
        """Kill everything that runs on a node, its link first."""
        leases = [lease for lease in await self.hub.farm.leases() if lease.node == node]
        servers = [psutil.Process(lease.server.pid) for lease in leases if lease.server and lease.server.pid]
        daemon = noded_pid(self.nodes[node].state_dir)
        await self.nodes[node].stop(signal.SIGKILL)
        os.kill(daemon, signal.SIGKILL)
        for server in servers:
            for process in [*server.children(recursive=True), server]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def said(self) -> Counter[str]:
        """Return how many notebooks began and ended; no kernel ever said the same twice."""
        lines = self.log.read_text().splitlines()
        assert len(lines) == len(set(lines))
        return Counter(line.split()[1] for line in lines)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BenchmarkHub]:
    """A running Hub whose benchmark has two brief suites."""
    folder = tmp_path_factory.mktemp("suites")
    log = folder / "log"
    for name, how in (("soak", 'mode = "duration"\nduration = "1h"'), ("long", 'mode = "repeat"\nrepeat = 1000')):
        (folder / f"{name}.toml").write_text(SUITE.format(name=name, how=how))
    (folder / "brief.ipynb").write_text(json.dumps(notebook(CELLS.format(log=str(log)))))
    async with AsyncExitStack() as stack:
        nodes = {}
        for number in (1, 2):
            made = ssh_node(f"n{number}", f"127.0.0.{10 + number}", sys.executable, simulated_gpus=1)
            nodes[f"n{number}"] = await stack.enter_async_context(made)
        specs = [node.spec for node in nodes.values()]
        kind = configured(LINES.format(suites=str(folder)))
        hub = await stack.enter_async_context(hub_process(specs, kind=kind, AGENTFARM_SERVICES="agentfarm,benchmark"))
        running = BenchmarkHub(hub, nodes, log)

        async def ready() -> bool:
            with suppress(Exception):
                await running.request("GET", "suites")
                return await running.all_eligible()
            return False

        await eventually(ready, "service and nodes are ready", 60, interval=0.1)
        yield running


def count(view: dict[str, Any], node: str = "", outcome: str = "succeeded") -> int:
    """Return how many results of an outcome a run has, on a node or on all."""
    rows = [row for row in view["outcomes"] if row["outcome"] == outcome and row["node"] in (node or row["node"])]
    return sum(row["results"] for row in rows)


async def test_the_service_is_killed_and_a_node_dies_and_comes_back(site: BenchmarkHub) -> None:
    """The run goes on: no case twice, the gap and the loss told with their times, the node takes part again."""
    run = await site.start("soak")
    await site.until(run, lambda view: count(view, "n1") and count(view, "n2"), "both nodes have a result")
    await site.kill_service()
    gone = await site.until(run, lambda view: "service_gap" in kinds(view), "the service is back")
    await site.until(run, lambda view: count(view, "n2") > count(gone, "n2"), "it goes on")
    await site.lose_power("n2")
    lost = await site.until(run, lambda view: "node_lost" in kinds(view), "the loss is told")
    await site.until(run, lambda view: count(view, "n1") > count(lost, "n1"), "the other node goes on")
    await site.nodes["n2"].start()
    back = await site.until(run, lambda view: "node_back" in kinds(view), "the node is back")
    await site.until(run, lambda view: count(view, "n2") > count(back, "n2"), "it takes part")
    ended = await site.cancelled(run)
    assert (count(ended, "n1", "lost"), count(ended, "n2", "lost")) == (0, 1)
    events = {event["kind"]: event for event in ended["events"]}
    assert 0 < events["service_gap"]["seconds"] < 60
    assert events["node_lost"]["node"] == events["node_back"]["node"] == "n2"
    away = events["node_back"]["at"] - events["node_lost"]["at"]
    assert events["node_back"]["seconds"] == pytest.approx(away, abs=1)
    said = site.said()
    assert said["done"] >= count(ended)
    assert said["begun"] - count(ended) <= 3  # what n2 executed when it died, and what both did at the end
    samples = (await site.request("GET", f"runs/{run}/samples"))["samples"]
    assert {0.0, 1.0} <= {sample["values"]["up"] for sample in samples if sample["name"] == "n2"}


async def test_the_hub_is_killed_in_the_middle(site: BenchmarkHub) -> None:
    """A Hub that is killed and started again, with it the service, costs no case and no server."""
    run = await site.start("long")
    before = await site.until(run, lambda view: count(view, "n1") and count(view, "n2"), "both nodes have a result")
    servers = {lease.id for lease in await site.hub.farm.leases()}
    await site.hub.kill()
    await site.hub.start()
    await site.until(run, lambda view: "service_gap" in kinds(view), "the service is another one")
    await site.until(run, lambda view: count(view, "n1") > count(before, "n1") + 1, "it goes on")
    assert {lease.id for lease in await site.hub.farm.leases()} == servers
    ended = await site.cancelled(run)
    assert {row["outcome"] for row in ended["outcomes"]} == {"succeeded"}
    assert kinds(ended) == {"run_started", "phase_started", "service_gap", "cancelled"}


async def test_an_exclusive_run_is_cancelled_and_the_service_killed(site: BenchmarkHub) -> None:
    """It has the node for itself, over a restart too; a cancellation is finished by the next life of the service."""
    await site.hub.add_user("ada")
    await site.hub.start_server("ada", {"node": "n1", "gpus": 1})
    run = await site.start("long", nodes=["n1"], exclusive=True)
    await site.until(run, count, "it runs, and ada's server had to end")
    assert {lease.owner for lease in await site.hub.farm.leases()} == {"benchmark"}
    assert (await site.hub.farm.node("n1"))["drain"]["kept_for"] == "benchmark"
    await site.kill_service()
    before = count(await site.until(run, lambda view: "service_gap" in kinds(view), "the service is back"))
    await site.until(run, lambda view: count(view) > before, "it goes on")
    assert (await site.hub.farm.node("n1"))["drain"]["kept_for"] == "benchmark"
    await site.request("POST", f"runs/{run}/cancel", {})
    await site.kill_service()
    ended = await site.ended(run)
    assert (ended["state"], ended["detail"], ended["passed"]) == ("cancelled", "cancelled by admin", False)
    await site.nothing_is_left()
    assert {event["node"] for event in ended["events"] if event["kind"] == "drained"} == {"n1"}


def kinds(view: dict[str, Any]) -> set[str]:
    """Return the kinds of a run's events."""
    return {event["kind"] for event in view["events"]}
