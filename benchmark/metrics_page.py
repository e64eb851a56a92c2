"""The metrics page of a farm of 1,000 nodes: how long a scrape takes, and how long it holds up the service's loop.

ours    the benchmark service's own handler, application and HTTP server; the scraper is another process; while it
        scrapes, every node reports every two seconds, and each scrape's text is made anew (its cache is off)
peer    prometheus_client: a collector that yields the same samples, and `generate_latest`, in the same process

Both are measured in turns. The loop's stalls are the gaps between the ticks of a task that sleeps 1 ms: in wall time,
in which other programs of the machine show, and in processor time of the loop's thread, in which they do not.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from provenance import output_path, provenance, spread
from tornado import httpserver, netutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from benchmark_world import make_view

from jupyterhub_agentfarm.benchmark import metrics_page
from jupyterhub_agentfarm.benchmark.app import BenchmarkApp
from jupyterhub_agentfarm.benchmark.counters import BenchmarkCounters
from jupyterhub_agentfarm.benchmark.exposition import Exposition
from jupyterhub_agentfarm.services import local

PACKAGES = ("prometheus-client", "tornado", "jupyterhub")
REPORT_SECONDS = 2.0
GOAL_MILLISECONDS = 10.0
Figures = dict[str, Any]

#: The scraper: url, token, how often, seconds between; prints the milliseconds of each request.
SCRAPER = """
import http.client, json, sys, time
from urllib.parse import urlsplit
url, token, count, pause, encoding = sys.argv[1:]
parts, taken, size = urlsplit(url), [], 0
connection = http.client.HTTPConnection(parts.netloc, timeout=60)
headers = {"Authorization": "token " + token, "Accept-Encoding": encoding}
for _ in range(int(count)):
    began = time.perf_counter()
    connection.request("GET", parts.path + "?" + parts.query, headers=headers)
    answer = connection.getresponse()
    size = len(answer.read())
    taken.append((time.perf_counter() - began) * 1e3)
    assert answer.status == 200, answer.status
    time.sleep(float(pause))
print(json.dumps({"milliseconds": taken, "bytes": size}))
"""


class Ticks:
    """Watches the loop for as long as it is entered."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _tick(self) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now, used = time.perf_counter(), time.thread_time()
            self.wall.append((now - wall - 0.001) * 1e3)
            self.cpu.append((used - cpu) * 1e3)
            wall, cpu = now, used

    def figures(self) -> Figures:
        """Return the stalls in milliseconds."""
        return {"wall_milliseconds": spread(self.wall), "processor_milliseconds": spread(self.cpu)}


class Peer(Collector):
    """Yields the samples of our text as a custom collector would: a sample for each `add_sample`."""

    def __init__(self, text: str) -> None:
        self._families = [(f.name, f.documentation, f.type, f.samples) for f in text_string_to_metric_families(text)]

    def collect(self) -> Iterator[Family]:
        """Yield the families."""
        for name, documentation, kind, samples in self._families:
            family = Family(name, documentation, kind)
            for sample in samples:
                family.add_sample(sample.name, sample.labels, sample.value)
            yield family

    def describe(self) -> list[Family]:
        """Yield nothing, so that registration does not collect."""
        return []


class Farm:
    """The service with a farm that reports."""

    def __init__(self, nodes: int) -> None:
        self.views = [
            make_view(f"n{n:04d}", role="gpuserver" if n % 10 == 0 else "microserver", gpus=2 if n % 10 == 0 else 1)
            for n in range(nodes)
        ]
        self.exposition = Exposition("bench", BenchmarkCounters(), settled=gc.freeze)  # as the service does
        self.exposition.reset(self.views, [])
        self.reports: list[float] = []

    async def report(self) -> None:
        """Let every node report every two seconds, evenly."""
        began = time.monotonic()
        for number in range(10**9):
            view = self.views[number % len(self.views)]
            view["reported_at"] = time.time()
            view["telemetry"]["load1"] = (number % 997) / 100
            started = time.thread_time()
            self.exposition.update_node(view)
            self.reports.append((time.thread_time() - started) * 1e6)
            due = began + (number + 1) * REPORT_SECONDS / len(self.views)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def scrape(arguments: list[str], ticks: Ticks) -> Figures:
    """Return the milliseconds of requests that another process makes, while the loop is watched."""
    command = (sys.executable, "-c", SCRAPER, *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with ticks:  # the service starts no process
        out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the scraper ended with status {process.returncode}")
    return dict(json.loads(out))


class Made:
    """Times of making the text, without a request."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def make(self, text: Callable[[], bytes], count: int) -> None:
        """Make the text some times."""
        for _ in range(count):
            wall, cpu = time.perf_counter(), time.thread_time()
            text()
            self.cpu.append((time.thread_time() - cpu) * 1e3)
            self.wall.append((time.perf_counter() - wall) * 1e3)

    def figures(self) -> Figures:
        """Return the times in milliseconds."""
        return {"wall": spread(self.wall), "processor": spread(self.cpu)}


def peer(text: str) -> Callable[[], bytes]:
    """Return what makes the peer's text, after a look that it has as many samples as `text`."""
    registry = CollectorRegistry()
    registry.register(Peer(text))
    lines = [line for line in generate_latest(registry).splitlines() if not line.startswith(b"#")]
    if len(lines) != samples(text):
        raise RuntimeError(f"prometheus_client made {len(lines)} samples of {samples(text)}")
    return lambda: generate_latest(registry)


def samples(text: str) -> int:
    """Return the number of samples in a text."""
    return sum(not line.startswith("#") for line in text.splitlines())


async def measure(options: argparse.Namespace) -> Figures:
    """Return the figures."""
    latest = peer(Farm(options.nodes).exposition.text("all"))
    gc.collect()
    gc.freeze()  # the collections of what the peer keeps are no stalls of ours
    farm = Farm(options.nodes)
    metrics_page.METRICS_AGE_SECONDS = -1.0
    with tempfile.TemporaryDirectory(prefix="afbench") as folder:
        app = BenchmarkApp(runtime_dir=folder, log_level=40)
        app.metrics_page = metrics_page.MetricsPage(farm.exposition)
        server = httpserver.HTTPServer(app.application())
        sockets = netutil.bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}{app.prefix}metrics?set=all"
        try:
            return await _in_turns(farm, latest, [url, local.local_token(Path(folder))], options)
        finally:
            server.stop()
            await server.close_all_connections()


async def _in_turns(farm: Farm, latest: Callable[[], bytes], target: list[str], options: argparse.Namespace) -> Figures:
    text = farm.exposition.text("all")
    quiet, busy = Ticks(), Ticks()
    taken: dict[str, list[float]] = {"plain": [], "gzip": []}
    ours, theirs, size = Made(), Made(), {}
    for _ in range(options.rounds):
        reporting = asyncio.create_task(farm.report())
        async with quiet:
            await asyncio.sleep(options.requests * options.pause)
        for encoding, kind in (("identity", "plain"), ("gzip", "gzip")):
            found = await scrape([*target, str(options.requests), str(options.pause), encoding], busy)
            taken[kind] += found["milliseconds"]
            size[kind] = found["bytes"]
        reporting.cancel()
        ours.make(lambda: farm.exposition.text("all").encode(), options.requests)
        theirs.make(latest, max(2, options.requests // 10))
    scrapes = {name: spread(values) for name, values in taken.items()}
    made = {"ours": ours.figures(), "generate_latest": theirs.figures()}
    return {
        "nodes": options.nodes,
        "samples": samples(text),
        "bytes": size,
        "scrape_milliseconds": scrapes,
        "text_milliseconds": made,
        "generate_latest_by_our_text": _ratio(made["generate_latest"]["processor"], made["ours"]["processor"]),
        "generate_latest_by_our_whole_scrape": _ratio(made["generate_latest"]["wall"], scrapes["plain"]),
        "processor_microseconds_per_report": spread(farm.reports, 1),
        "stalls_of_the_loop_while_nodes_report": {"without scrapes": quiet.figures(), "with scrapes": busy.figures()},
        "goal": {
            "milliseconds": GOAL_MILLISECONDS,
            "scrape_held": scrapes["plain"]["median"] <= GOAL_MILLISECONDS,
            "text_in_processor_time_held": made["ours"]["processor"]["median"] <= GOAL_MILLISECONDS,
            "stall_in_processor_time_held": max(busy.cpu) <= GOAL_MILLISECONDS,
        },
    }


def _ratio(theirs: Figures, ours: Figures) -> float:
    return round(theirs["median"] / ours["median"], 1)


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure the metrics page of a large farm.")
    parser.add_argument("--nodes", type=int, default=1000, help="nodes of the farm")
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and the peer")
    parser.add_argument("--requests", type=int, default=40, help="scrapes of each kind in a round")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between scrapes")
    parser.add_argument("--quick", action="store_true", help="a short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.quick:
        options.nodes, options.rounds, options.requests = 100, 1, 5
    os.environ.setdefault("JUPYTERHUB_API_TOKEN", "none")
    os.environ.setdefault("JUPYTERHUB_API_URL", "http://127.0.0.1:9/hub/api")
    result = {"provenance": provenance(options, PACKAGES), **asyncio.run(measure(options))}
    output = options.output or output_path("metrics_page")
    output.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
