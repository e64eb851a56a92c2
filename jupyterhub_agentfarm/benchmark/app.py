"""The benchmark service: its parts, put together."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import aiohttp
from traitlets import List, Unicode

from .. import __version__
from ..controller.client import FarmClient
from ..controller.farm_watch import FarmWatch
from ..inventory.database import Database
from ..services import request_durations
from ..services.hub import HubClient
from ..services.stored import StoredService
from ..share import share_path
from ..traitlets import Seconds
from .api import description
from .bench import Bench
from .counters import BenchmarkCounters, block
from .exclusive import NodeKeeper
from .exposition import Exposition
from .handlers import routes
from .metrics_page import MetricsPage
from .report import PrometheusCheck, ReportRenderer
from .runner import Runner, Surroundings
from .servers import NodeServers
from .store import BenchmarkStore
from .suites import SuiteCatalogue


class BenchmarkApp(StoredService):
    """Runs notebooks on all nodes at once, and tells what the farm delivers."""

    name = "benchmark"
    description = "The benchmark service of the farm: suites, runs, reports, metrics."
    classes = [FarmWatch, NodeServers, NodeKeeper, Runner, FarmClient, ReportRenderer, PrometheusCheck]

    suites_dirs = List(
        Unicode(),
        help="Further folders with suites (*.toml). A suite there wins over one of the same name that is shipped.",
    ).tag(config=True)
    stale_after = Seconds(
        15,
        help="Age of a node's last report, in seconds, from which on its metrics are left out and it counts as not "
        "up. Smaller: a silent node is seen sooner; below a few report intervals, live nodes flicker.",
    ).tag(config=True)

    def handlers(self) -> list[tuple[Any, ...]]:
        """Return pages, API and metrics."""
        return routes()

    def openapi(self) -> dict[str, Any]:
        """Return the description of the API in OpenAPI 3.1."""
        return description(self.prefix + "api/v1")

    def session(self) -> aiohttp.ClientSession:
        """Return a session for requests to the benchmark's servers, with the service's own token."""
        token = os.environ["JUPYTERHUB_API_TOKEN"]
        timeout = aiohttp.ClientTimeout(total=60, connect=10)
        headers = {"Authorization": f"token {token}"}
        # Without a cookie jar: a cookie beside the token would bring the server's XSRF check upon us.
        return aiohttp.ClientSession(headers=headers, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())

    async def open(self) -> None:
        """Start the parts in the order of their dependence."""
        folders = [*map(Path, self.suites_dirs), share_path("suites")]
        catalogue = SuiteCatalogue(folders)
        counters = BenchmarkCounters()
        # A collection of garbage would look at all of a farm again and again: of 1,000 nodes that takes 30 ms.
        exposition = Exposition(__version__, counters, self.stale_after, lambda: catalogue.names, settled=gc.freeze)
        exposition.further.append(lambda: {request_durations.NAME: block(self.request_durations.lines())})
        self.metrics_page = MetricsPage(exposition)
        client = FarmClient(parent=self, runtime_dir=self.runtime_dir, token=os.environ["JUPYTERHUB_API_TOKEN"])
        hub = HubClient()
        farm = FarmWatch(client, exposition, parent=self)
        servers = NodeServers(hub, farm, parent=self)
        keeper = NodeKeeper(client, farm, servers, parent=self)
        self._opened += [client, hub, farm]
        farm.start()
        self.bench = Bench(
            BenchmarkStore(Database(self.db_url, "BenchmarkApp.db_url")),
            catalogue,
            Surroundings(servers, keeper, farm, self.session),
            counters,
            self.data_path / "benchmark-runs",
            ReportRenderer(PrometheusCheck(parent=self), parent=self),
            parent=self,
        )
        self._opened.append(self.bench)
        await self.bench.open()
