"""A real Prometheus scrapes the farm's services through the Hub's proxy."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hub_process import hub_process
from prometheus_process import prometheus_process
from ssh_node import ssh_node
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.prometheus, pytest.mark.timeout(180)]

SETS = ("hub", "microserver", "gpuserver")
#: Every page, by the job that scrapes it: service and set.
JOBS = {
    **{name: ("benchmark", name) for name in SETS},
    **{f"agents-{name}": ("agents", name) for name in SETS},
    "controller": ("agentfarm", None),
}
#: Every series with its name in a label, for aggregations drop names.
NAMED = 'label_replace({__name__=~"agentfarm_.+"}, "name", "$1", "__name__", "(.+)")'


async def test_prometheus_scrapes_every_set(tmp_path: Path) -> None:
    """A job per page and set is up, nothing is in two of them, and promtool finds nothing to complain about."""
    async with (
        ssh_node("n1", "127.0.0.11", sys.executable, simulated_gpus=2) as node,
        hub_process([node.spec], AGENTFARM_SERVICES="agentfarm,agents,benchmark") as hub,
    ):
        metrics = f"{hub.url}/services/benchmark/metrics"
        await eventually(lambda: scraped(hub, f"{metrics}?set=all"), "n1 is in the metrics", timeout=60)
        for service in ("benchmark", "agents", "agentfarm"):
            url = f"{hub.url}/services/{service}/metrics?set=all"
            async with hub.http.get(url, headers=hub.headers()) as answer:
                assert await promtool(await answer.text()) == ""
        async with hub.http.get(metrics) as refused:
            assert refused.status in (401, 403)
        async with hub.http.get(f"{metrics}?set=everything", headers=hub.headers()) as unknown:
            assert unknown.status == 400

        async with prometheus_process(config(hub.url, hub.token), tmp_path) as port:
            up = await eventually(lambda: all_up(port), "every job is up", timeout=60, interval=0.2)
            assert up == dict.fromkeys(JOBS, "1")
            assert await query(port, "sum(agentfarm_node_up)") == {"": "1"}
            assert await query(port, "count(agentfarm_gpu_memory_total_bytes)") == {"": "2"}
            assert await query(port, 'agentfarm_gpu_info{simulated!="true"}') == {}
            assert await query(port, "sum by (node) (agentfarm_tasks_finished_total)") == {"": "0"}
            assert await query(port, "sum(agentfarm_node_tasks) + sum(agentfarm_node_agents)") == {"": "0"}
            assert list(await query(port, "agentfarm_node_up_seconds_total > 1")) == ["microserver"]
            assert await query(port, f"count(count without (job) ({NAMED}) > 1)") == {}
            assert int((await query(port, f"count({NAMED})"))[""]) > 100


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


def config(hub_url: str, token: str) -> dict[str, Any]:
    """Return a scrape configuration with one job per page and set."""
    jobs = [
        {
            "job_name": job,
            "metrics_path": f"/services/{service}/metrics",
            "params": {"set": [which]} if which else {},
            "authorization": {"credentials": token},
            "static_configs": [{"targets": [hub_url.removeprefix("http://")]}],
        }
        for job, (service, which) in JOBS.items()
    ]
    return {"global": {"scrape_interval": "2s", "scrape_timeout": "2s"}, "scrape_configs": jobs}


async def query(port: int, expression: str) -> dict[str, str]:
    """Return the values of an instant query by job."""
    url = f"http://127.0.0.1:{port}/api/v1/query"
    async with aiohttp.ClientSession() as session, session.get(url, params={"query": expression}) as answer:
        result = (await answer.json())["data"]["result"]
    return {sample["metric"].get("job", ""): sample["value"][1] for sample in result}


async def all_up(port: int) -> dict[str, str]:
    """Return `up` by job when every job is."""
    try:
        up = await query(port, "up")
    except aiohttp.ClientError:
        return {}
    return up if list(up.values()) == ["1"] * len(JOBS) else {}
