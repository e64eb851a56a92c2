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
from jupyterhub_agentfarm.benchmark.exposition import Exposition
from jupyterhub_agentfarm.benchmark.servers import NodeServers
from jupyterhub_agentfarm.benchmark.store import BenchmarkStore
from jupyterhub_agentfarm.benchmark.suites import SuiteCatalogue
from jupyterhub_agentfarm.controller.farm_watch import FarmWatch
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.services.hub import HubClient

SUITE = """
name = "tiny"
title = "Tiny"
gpus = "auto"
sample_interval_seconds = 0.05
timeout_seconds = {timeout}
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


def write_suite(folder: Path, timeout: float = 60) -> Path:
    """Write the suite `tiny` and its notebook into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.toml").write_text(SUITE.format(timeout=timeout))
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


@pytest.fixture
async def make_bench(world: World, tmp_path: Path) -> AsyncIterator[MakeBench]:
    """Makes benches over the same database, one after the other."""
    async with AsyncExitStack() as stack:

        async def make(timeout: float = 60, **options: Any) -> Bench:
            servers = {"proxy_url": world.url, "start_timeout": 0.5, "stop_timeout": 5, "poll_interval": 0.02}
            runner = {"poll_interval": 0.02, "patience": 0.3} | options
            config = Config({"NodeServers": servers, "Runner": runner})
            counters = BenchmarkCounters()
            catalogue = SuiteCatalogue([write_suite(tmp_path / "suites", timeout)])
            exposition = Exposition("0", counters, suites=lambda: catalogue.names)
            hub = HubClient(world.url + "/hub/api", "t")
            stack.push_async_callback(hub.aclose)
            farm = FarmWatch(world, exposition)
            farm.start()
            stack.push_async_callback(farm.close)
            bench = Bench(
                BenchmarkStore(Database(f"sqlite:///{tmp_path}/benchmark.sqlite")),
                catalogue,
                farm,
                NodeServers(hub, farm, config=config),
                counters,
                tmp_path / "reports",
                aiohttp.ClientSession,
                config=config,
            )
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
