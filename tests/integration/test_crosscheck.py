"""A report beside a real Prometheus that scraped the same figures."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from benchmark_records import run_node, run_record, sample
from prometheus_process import prometheus_process
from waiting import eventually

from jupyterhub_agentfarm.benchmark.models import CaseResult
from jupyterhub_agentfarm.benchmark.report import PrometheusCheck, Report
from jupyterhub_agentfarm.benchmark.report.crosscheck import FARM
from jupyterhub_agentfarm.metrics import sample_line

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on the PATH"),
]
GIB = 2**30
CPU = {"n1": 0.5, "n2": 0.1}
"""What the nodes use of their processors."""


class Exporter:
    """Tells what the metrics page of two nodes tells; a case that is done counts from then on."""

    def __init__(self) -> None:
        self.completed = dict.fromkeys(CPU, 0)
        self.scrapes = 0
        self.told_wrong = 0.0

    def text(self) -> str:
        """Return the exposition."""
        lines = []
        for node, cpu in CPU.items():
            one = {"node": node}
            lines += [
                sample_line("agentfarm_node_up", one, 1),
                sample_line("agentfarm_node_cpu_utilization_ratio", one, cpu + self.told_wrong * (node == "n2")),
                sample_line("agentfarm_node_memory_total_bytes", one, 32 * GIB),
                sample_line("agentfarm_node_memory_available_bytes", one, 24 * GIB),
                sample_line("agentfarm_gpu_utilization_ratio", {**one, "gpu": "0"}, 0.8),
                sample_line("agentfarm_gpu_utilization_ratio", {**one, "gpu": "1"}, 0.4),
            ]
            if self.completed[node]:
                case = {"node": node, "suite": "soak", "case": "train", "outcome": "succeeded"}
                lines.append(sample_line("agentfarm_benchmark_cases_total", case, self.completed[node]))
        return "\n".join(lines) + "\n"

    async def answer(self, _: web.Request) -> web.Response:
        """Answer a scrape."""
        self.scrapes += 1
        return web.Response(text=self.text())


@asynccontextmanager
async def scraped(exporter: Exporter, folder: Path) -> AsyncIterator[str]:
    """Serve the exporter and let a Prometheus scrape it under two jobs; gives the URL of the Prometheus."""
    app = web.Application()
    app.router.add_get("/metrics", exporter.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    targets = [{"targets": [f"127.0.0.1:{runner.addresses[0][1]}"]}]
    # The same series twice, as where a site scrapes ?set=all besides the sets.
    jobs = [{"job_name": name, "static_configs": targets} for name in ("one", "two")]
    config = {"global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"}, "scrape_configs": jobs}
    try:
        async with prometheus_process(config, folder) as port:
            yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def known(url: str, query: str) -> Any:
    """Return what an instant query gives, [] while Prometheus is not there."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/api/v1/query", params={"query": query}) as answer,
        ):
            return (await answer.json())["data"]["result"]
    except aiohttp.ClientError:
        return []


async def measured(exporter: Exporter, url: str) -> Report:
    """Carry out what stands for a run: three cases on each node, sampled by us and scraped by Prometheus."""
    await eventually(lambda: known(url, "agentfarm_node_up"), "the nodes are known", timeout=60)
    started = time.time()
    results, samples = [], []
    for number in range(3):
        began = time.time()
        seen = exporter.scrapes
        await eventually(lambda seen=seen: exporter.scrapes >= seen + 6, "some scrapes", timeout=60, interval=0.05)
        for node, cpu in CPU.items():
            exporter.completed[node] += 1
            now = time.time()
            results.append(
                CaseResult(node, "train", "succeeded", "", began, now - began, ended_at=now, repetition=number)
            )
            told = {"memory_total_bytes": 32 * GIB, "memory_used_bytes": 8 * GIB, "gpu_utilization_ratio": 0.6}
            made = sample(node, 0, cpu_utilization_ratio=cpu, gpus=2, **told)
            samples.append(type(made)(now, "node", node, made.values))
    query = "sum(max by (node) (agentfarm_benchmark_cases_total)) == 6"
    await eventually(lambda: known(url, query), "all cases are known", timeout=60)
    nodes = [run_node(name) for name in CPU]
    run = run_record(nodes, ["train"], 0, created_at=started, started_at=started, ended_at=time.time())
    return Report(run, results, samples)


async def test_the_figures_of_a_report_agree_with_prometheus(tmp_path: Path) -> None:
    """Means of every quantity and the counts of cases are what Prometheus has, for each node and the farm."""
    exporter = Exporter()
    async with scraped(exporter, tmp_path) as url:
        report = await measured(exporter, url)
        found = await PrometheusCheck(url=url).compare(report.evidence)
        assert found is not None
        assert found.problem == ""
        rows = {(row.name, row.quantity): row for row in found.rows}
        assert len(found.compared) == 15, found.rows
        assert found.differing == []
        assert rows[FARM, "cases completed"].theirs == 6
        assert rows["n1", "GPU utilisation"].theirs == pytest.approx(0.6)
        assert rows["n2", "memory in use"].theirs == pytest.approx(0.25)
        refused = await PrometheusCheck(url=url, selector="}").compare(report.evidence)
        assert refused is not None
        assert "it refused a query" in refused.problem


async def test_a_difference_from_prometheus_is_found(tmp_path: Path) -> None:
    """A node that tells Prometheus ten points more than us is named, by how much."""
    exporter = Exporter()
    exporter.told_wrong = 0.1
    async with scraped(exporter, tmp_path) as url:
        report = await measured(exporter, url)
        found = await PrometheusCheck(url=url).compare(report.evidence)
    assert found is not None
    apart = {(row.name, row.quantity): row.difference for row in found.differing}
    assert apart == {
        ("n2", "CPU utilisation"): pytest.approx(0.1),
        (FARM, "CPU utilisation"): pytest.approx(0.05),
    }
