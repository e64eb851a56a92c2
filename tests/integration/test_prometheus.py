"""A real Prometheus scrapes the benchmark service through the Hub's proxy."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hub_process import free_ports, hub_process
from ssh_node import ssh_node
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.prometheus, pytest.mark.timeout(180)]

SETS = ("hub", "microserver", "gpuserver")


async def test_prometheus_scrapes_every_set(tmp_path: Path) -> None:
    """Three jobs, one per set, are up; a node's GPU is in its set; promtool finds nothing to complain about."""
    async with (
        ssh_node("n1", "127.0.0.11", sys.executable, simulated_gpus=2) as node,
        hub_process([node.spec], AGENTFARM_SERVICES="agentfarm,benchmark") as hub,
    ):
        metrics = f"{hub.url}/services/benchmark/metrics"
        text = await eventually(lambda: scraped(hub, f"{metrics}?set=all"), "n1 is in the metrics", timeout=60)
        assert await promtool(text) == ""
        async with hub.http.get(metrics) as refused:
            assert refused.status in (401, 403)
        async with hub.http.get(f"{metrics}?set=everything", headers=hub.headers()) as unknown:
            assert unknown.status == 400

        (port,) = free_ports(1)
        (tmp_path / "prometheus.yml").write_text(config(hub.url, hub.token))
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            up = await eventually(lambda: all_up(port), "every job is up", timeout=60, interval=0.2)
            assert up == dict.fromkeys(SETS, "1")
            assert await query(port, "sum(agentfarm_node_up)") == {"": "1"}
            assert await query(port, "count(agentfarm_gpu_memory_total_bytes)") == {"": "2"}
            assert await query(port, 'agentfarm_gpu_info{simulated!="true"}') == {}
        finally:
            process.terminate()
            async with asyncio.timeout(20):
                await process.wait()


async def scraped(hub: Any, url: str) -> str:
    """Return the exposition when the node is up in it."""
    async with hub.http.get(url, headers=hub.headers()) as answer:
        text: str = await answer.text()
    return text if 'agentfarm_node_up{node="n1"} 1' in text and "agentfarm_gpu_memory_total_bytes" in text else ""


async def promtool(text: str) -> str:
    """Return what `promtool check metrics` has to say."""
    process = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate(text.encode())
    return out.decode() if process.returncode or out else ""


def config(hub_url: str, token: str) -> str:
    """Return a scrape configuration with one job per set."""
    jobs = [
        {
            "job_name": name,
            "metrics_path": "/services/benchmark/metrics",
            "params": {"set": [name]},
            "authorization": {"credentials": token},
            "static_configs": [{"targets": [hub_url.removeprefix("http://")]}],
        }
        for name in SETS
    ]
    return json.dumps({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs})


async def query(port: int, expression: str) -> dict[str, str]:
    """Return the values of an instant query by job."""
    url = f"http://127.0.0.1:{port}/api/v1/query"
    async with aiohttp.ClientSession() as session, session.get(url, params={"query": expression}) as answer:
        result = (await answer.json())["data"]["result"]
    return {sample["metric"].get("job", ""): sample["value"][1] for sample in result}


async def all_up(port: int) -> dict[str, str]:
    """Return `up` by job when there are three ones."""
    try:
        up = await query(port, "up")
    except aiohttp.ClientError:
        return {}
    return up if list(up.values()) == ["1"] * len(SETS) else {}
