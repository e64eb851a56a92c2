"""The service as a process: its API, its metrics page, and its death in the middle of a run."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from benchmark_service import BenchmarkService
from benchmark_world import World
from waiting import eventually

from jupyterhub_agentfarm.benchmark.app import BenchmarkApp
from jupyterhub_agentfarm.benchmark.client import BenchmarkClient
from jupyterhub_agentfarm.errors import ConfigError, ConflictError, FarmUnavailable, InvalidField, NotFoundError

SUITE = """
name = "tiny"
title = "Tiny"
sample_interval_seconds = 0.1
[[case]]
name = "one"
notebook = "linear_algebra.ipynb"
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short-lived folder."""
    with tempfile.TemporaryDirectory(prefix="af") as name:
        yield Path(name)


@pytest.fixture
async def service(folder: Path, world: World) -> AsyncIterator[BenchmarkService]:
    """A service that is ended afterwards."""
    service = BenchmarkService(folder, world, {"tiny": SUITE})
    yield service
    if service.process is not None and service.process.poll() is None:
        await asyncio.to_thread(service.end, signal.SIGKILL)


async def get(client: BenchmarkClient, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Return status, headers and text of a path below the service's prefix."""
    async with aiohttp.ClientSession(headers=headers) as session, session.get(client.url + path) as response:
        return response.status, dict(response.headers), await response.text()


async def test_a_run_through_the_api(service: BenchmarkService, world: World) -> None:
    """Suites are listed, a run is started, followed to its end, and its report and samples are fetched."""
    client = await service.start()
    try:
        assert {"tiny", "smoke"} <= {suite["name"] for suite in await client.suites()}
        with pytest.raises(InvalidField, match="names of nodes of this farm"):
            await client.start("tiny", ["n9"])
        with pytest.raises(NotFoundError):
            await client.start("huge")
        run = await client.start("tiny")
        seen = [name async for name, _ in client.events(run["id"])]
        assert {"run", "result", "progress", "sample"} <= set(seen)
        ended = await client.run(run["id"])
        assert (ended["state"], len(ended["results"])) == ("completed", 3)
        assert "3 nodes delivered" in await client.report(run["id"])
        assert (await client.report(run["id"], "csv")).count("\n") > 3
        assert "# Benchmark tiny" in await client.report(run["id"], "md")
        samples = await client.samples(run["id"])
        assert len(samples) >= 6
        thinned = await client.samples(run["id"], points=2)
        assert {sample["name"] for sample in thinned} == {"n1", "n2", "big", "microserver", "gpuserver", "farm"}
        assert thinned[-1] == samples[-1]
        with pytest.raises(InvalidField, match="points must be a whole number from 1 to"):
            await client.samples(run["id"], points=0)
        with pytest.raises(InvalidField, match="format must be one of"):
            await client.report(run["id"], "tiff")
        with pytest.raises(NotFoundError):
            await client.report_file(run["id"], against="20260101-000000-abcdef")
        with pytest.raises(ConflictError, match="has ended"):
            await client.cancel(run["id"])
        assert [one["id"] for one in await client.runs()] == [run["id"]]
    finally:
        await client.aclose()
    assert await asyncio.to_thread(service.end) == 0


async def test_metrics_and_pages(service: BenchmarkService) -> None:
    """Metrics need a token that may read them, know their sets, and are compressed when asked; pages load."""
    client = await service.start()
    token = {"Authorization": f"Bearer {client.token}"}
    await client.aclose()

    async def text(path: str) -> str:
        return (await get(client, path, **token))[2]

    assert (await get(client, "metrics"))[0] == 401

    async def known() -> bool:
        return 'agentfarm_node_up{node="n1"} 1' in await text("metrics?set=microserver")

    await eventually(known, "the nodes are on the metrics page", timeout=15, interval=0.3)
    assert 'node="big"' not in await text("metrics?set=microserver")
    assert "agentfarm_build_info" in await text("metrics")
    status, _, body = await get(client, "metrics?set=farm", **token)
    assert (status, "set must be one of hub, microserver, gpuserver, all" in body) == (400, True)
    _, headers, body = await get(client, "metrics?set=all", **token, **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert "agentfarm_node_up" in body
    assert "Tiny" in await text("")
    assert (await get(client, "runs/20260101-000000-abcdef", **token))[0] == 404


async def test_the_service_is_killed_in_the_middle(service: BenchmarkService, world: World) -> None:
    """After SIGKILL the run goes on where it was: no case twice, the gap marked, samples and results kept."""
    world.behaviour["n1", "one"] = "hang"
    client = await service.start()
    run = await client.start("tiny")
    await eventually(lambda: len(world.happened("end")) == 2, "two nodes finish")

    async def sampled() -> bool:
        return bool(await client.samples(run["id"]))

    await eventually(sampled, "there are samples")
    await asyncio.to_thread(service.end, signal.SIGKILL)
    with pytest.raises(FarmUnavailable):
        await client.runs()
    await client.aclose()
    world.behaviour.clear()
    client = await service.start()
    try:
        ended = [data async for name, data in client.events(run["id"]) if name == "run"][-1]
        assert ended["state"] == "completed"
        assert [result["outcome"] for result in ended["results"]] == 3 * ["succeeded"]
        assert len(world.submitted) == 3
        gaps = [event["seconds"] for event in ended["events"] if event["kind"] == "service_gap"]
        assert len(gaps) == 1
        assert 0 < gaps[0] < 60
        assert world.servers == {}
    finally:
        await client.aclose()


async def test_a_database_that_cannot_be_used_names_the_benchmarks_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says which option to change: the benchmark's, not the controller's."""
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "t")
    monkeypatch.setenv("JUPYTERHUB_API_URL", "http://127.0.0.1:9/hub/api")
    app = BenchmarkApp(runtime_dir=str(tmp_path), db_url="mysql://h/d")
    with pytest.raises(ConfigError, match=r"^BenchmarkApp\.db_url must be a URL"):
        await app.open()
    await app.close()
