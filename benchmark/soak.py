"""A long run of the benchmark service under faults, watched by a Prometheus that knows nothing of it.

Three microservers and a GPU server, each a host of its own with OpenSSH, run the suite for `--duration`. After a
quarter of it a microserver loses its power, and has it back three minutes later; after 55 % the service is killed with
SIGKILL. A Prometheus scrapes the service's pages meanwhile, and the report compares its own samples with what
Prometheus kept.
What is kept: the report in all its forms, and how much memory the service had over time.

Needs root, network namespaces and Debian's prometheus: see tests/install_tiers.sh.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from provenance import RESULTS, output_path, provenance

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))

from faults import faults
from faults.farm import FaultFarm, fault_farm
from ports import free_ports
from prometheus_process import prometheus_process
from test_prometheus import SETS, config

from jupyterhub_agentfarm.traitlets import parse_seconds

PACKAGES = ("jupyterhub", "jupyter_server", "nbclient", "ipykernel", "sqlalchemy", "aiohttp", "matplotlib")
#: Pause between two looks at the run, in seconds.
LOOK_SECONDS = 5
#: How long the lost node stays without power, as a share of the run, and at most in seconds.
AWAY_RATIO, AWAY_SECONDS = 0.1, 180
ENDED = ("completed", "failed", "cancelled", "interrupted")
AWAY = (aiohttp.ClientError, TimeoutError, OSError, json.JSONDecodeError)


class Log:
    """What happened, and when."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.lines: list[str] = []

    @property
    def seconds(self) -> float:
        """How long it has gone on."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Write down what happened now."""
        self.lines.append(f"{self.seconds:7.1f} s  {text}")
        sys.stderr.write(self.lines[-1] + "\n")
        sys.stderr.flush()


class Service:
    """The benchmark service of a farm."""

    def __init__(self, farm: FaultFarm) -> None:
        self._hub = farm.hub
        self._api = f"{farm.hub.url}/services/benchmark/api/v1/"

    def process(self) -> psutil.Process | None:
        """Return its process, if there is one."""
        return next(iter(self._hub.services("benchmark")), None)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the content of an answer that is JSON."""
        return json.loads(await self.fetch(method, path, body))

    async def fetch(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Return the content of an answer."""
        async with self._hub.http.request(method, self._api + path, json=body, headers=self._hub.headers()) as answer:
            content = await answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]!r}")
            return content


def scrape_config(hub_url: str, token: str) -> dict[str, Any]:
    """Return the configuration of a Prometheus that scrapes each of the service's pages every five seconds."""
    jobs = [job for job in config(hub_url, token)["scrape_configs"] if job["job_name"] in SETS]
    return {"global": {"scrape_interval": "5s", "scrape_timeout": "5s"}, "scrape_configs": jobs}


async def misfortune(farm: FaultFarm, service: Service, log: Log, seconds: float) -> None:
    """Take a node's power for a while, and kill the service."""
    node = farm.nodes[1]
    await asyncio.sleep(seconds / 4)
    await asyncio.to_thread(faults.power_off, node)
    log.say(f"power off: {node.name}")
    await asyncio.sleep(min(AWAY_RATIO * seconds, AWAY_SECONDS))
    await asyncio.to_thread(faults.power_on, node)
    log.say(f"power on: {node.name}")
    await asyncio.sleep(max(0.0, 0.55 * seconds - log.seconds))
    process = service.process()
    if process is None:
        raise RuntimeError("there is no process of the benchmark service to kill")
    process.kill()
    log.say(f"kill -9: the benchmark service, process {process.pid}")


async def watched(service: Service, run: str, log: Log, deadline: float) -> tuple[dict[str, Any], list[list[float]]]:
    """Return the run's end, and seconds and bytes of the service's memory over time."""
    memory: list[list[float]] = []
    said = -1
    while log.seconds < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        with suppress(psutil.Error):
            if (process := service.process()) is not None:
                memory.append([round(log.seconds, 1), process.memory_info().rss])
        with suppress(*AWAY, RuntimeError):
            view = await service.ask("GET", f"runs/{run}")
            if (minute := int(log.seconds // 60)) != said:
                said = minute
                log.say(f"{view['state']}: {view['detail']}")
            if view["state"] in ENDED:
                return view, memory
    raise RuntimeError(f"run {run} has not ended after {deadline:.0f} s")


async def measure(options: argparse.Namespace) -> None:
    """Run it, and keep what came of it."""
    (port,) = free_ports(1)
    settings: dict[str, dict[str, Any]] = {
        "Inventory": {"down_after": 30},
        "PrometheusCheck": {"url": f"http://127.0.0.1:{port}"},
    }
    with tempfile.TemporaryDirectory(prefix="afsoak") as folder:
        async with (
            fault_farm(4, 1, settings, services="agentfarm,benchmark", gpu_servers=1) as farm,
            prometheus_process(scrape_config(farm.hub.url, farm.hub.token), Path(folder), port),
        ):
            await carry_out(farm, options)


async def carry_out(farm: FaultFarm, options: argparse.Namespace) -> None:
    """Run the suite on the farm, and write the results."""
    service, log = Service(farm), Log()
    order = {
        "suite": options.suite,
        "duration_seconds": options.duration,
        "sample_interval_seconds": options.interval,
    }
    run = (await service.ask("POST", "runs", order))["id"]
    log.say(f"run {run} of suite {options.suite} on four nodes")
    trouble = asyncio.create_task(misfortune(farm, service, log, options.duration))
    try:
        view, memory = await watched(service, run, log, options.duration + options.patience)
        await trouble
    finally:
        trouble.cancel()
        await asyncio.gather(trouble, return_exceptions=True)
    log.say(f"{view['state']}, passed: {view.get('passed')}")
    stem = output_path("soak").with_suffix("")
    for form in options.forms.split(","):
        content = await service.fetch("GET", f"runs/{run}/report?format={form}")
        stem.with_name(f"{stem.name}-report.{form}").write_bytes(content)
    kept = {"provenance": provenance(options, PACKAGES), "log": log.lines, "service_memory_bytes": memory}
    kept |= {"run": {key: view[key] for key in ("id", "state", "detail", "passed", "limits", "events") if key in view}}
    stem.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
    sys.stdout.write(f"{stem}.json and the report beside it, in {RESULTS}\n")


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", default="soak")
    parser.add_argument("--duration", type=parse_seconds, default=1800.0, help="as in 30m or 4h; default: 30m")
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between samples; default: 10")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds beyond the duration; default: 900")
    parser.add_argument("--forms", default="html,json,csv,md,pdf")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(measure(arguments()))
