"""A bench with everything real but the world around it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from benchmark_world import World, make_view, opened
from traitlets.config import Config

from jupyterhub_agentfarm.benchmark.bench import Bench
from jupyterhub_agentfarm.benchmark.counters import BenchmarkCounters
from jupyterhub_agentfarm.benchmark.exclusive import NodeKeeper
from jupyterhub_agentfarm.benchmark.exposition import Exposition
from jupyterhub_agentfarm.benchmark.report import PrometheusCheck, ReportRenderer
from jupyterhub_agentfarm.benchmark.runner import Surroundings
from jupyterhub_agentfarm.benchmark.servers import NodeServers
from jupyterhub_agentfarm.benchmark.store import BenchmarkStore
from jupyterhub_agentfarm.benchmark.suites import SuiteCatalogue
from jupyterhub_agentfarm.controller.farm_watch import FarmWatch
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.services.hub import HubClient

SUITE = """
name = "tiny"
title = "Tiny"
sample_interval_seconds = 0.05
timeout_seconds = {timeout}
{how}
[[case]]
name = "one"
notebook = "tiny.ipynb"
[case.parameters]
size = 3
[[case]]
name = "two"
notebook = "tiny.ipynb"
"""
NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def write_suite(folder: Path, timeout: float = 60, how: str = "") -> Path:
    """Write the suite `tiny` and its notebook into `folder`; `how` are further lines of its head."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.toml").write_text(SUITE.format(timeout=timeout, how=how))
    (folder / "tiny.ipynb").write_text(json.dumps(NOTEBOOK))
    return folder


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Two microservers and a GPU server."""
    world = World()
    for view in (make_view("n1"), make_view("n2", gpus=0), make_view("big", role="gpuserver", gpus=2)):
        world.put(view)
    async with opened(world):
        yield world


MakeBench = Callable[..., Any]


async def no_report(*_: Any) -> None:
    """Draw nothing."""


@pytest.fixture
async def make_bench(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MakeBench]:
    """Makes benches over the same database, one after the other."""
    async with AsyncExitStack() as stack:

        async def make(timeout: float = 60, how: str = "", reports: bool = False, **options: Any) -> Bench:
            if not reports:  # drawing takes seconds, and these tests are not about it
                monkeypatch.setattr("jupyterhub_agentfarm.benchmark.bench.write_report", no_report)
            servers = {"proxy_url": world.url, "start_timeout": 0.5, "stop_timeout": 5, "poll_interval": 0.02}
            runner = {"poll_interval": 0.02, "patience": 0.3, "rejoin": 0.3} | options
            keeper = {"poll_interval": 0.02, "drain_deadline": 7}
            config = Config({"NodeServers": servers, "Runner": runner, "NodeKeeper": keeper})
            counters = BenchmarkCounters()
            catalogue = SuiteCatalogue([write_suite(tmp_path / "suites", timeout, how)])
            exposition = Exposition("0", counters, suites=lambda: catalogue.names)
            hub = HubClient(world.url + "/hub/api", "t")
            stack.push_async_callback(hub.aclose)
            farm = FarmWatch(world, exposition)
            farm.start()
            stack.push_async_callback(farm.close)
            nodes = NodeServers(hub, farm, config=config)
            surroundings = Surroundings(
                nodes, NodeKeeper(world, farm, nodes, config=config), farm, aiohttp.ClientSession
            )
            store = BenchmarkStore(Database(f"sqlite:///{tmp_path}/benchmark.sqlite"))
            renderer = ReportRenderer(PrometheusCheck())
            bench = Bench(store, catalogue, surroundings, counters, tmp_path / "reports", renderer, config=config)
            bench.exposition = exposition
            stack.push_async_callback(bench.close)
            await bench.open()
            return bench

        yield make


@pytest.fixture
async def bench(make_bench: MakeBench) -> Bench:
    """An open bench."""
    made: Bench = await make_bench()
    return made
