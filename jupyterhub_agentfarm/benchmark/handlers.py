"""The benchmark service's routes: pages, API, metrics."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from ..errors import InvalidField
from ..records import to_json
from ..services.description import DescriptionHandler
from ..services.handlers import NoOrder, PageHandler, ServiceHandler
from ..services.sse import stream_events
from .bench import Bench
from .metrics_page import MetricsHandler
from .models import RunRequest
from .report import FORMATS
from .sample_texts import csv_text, json_text

READ = "custom:benchmark:runs:read"
MANAGE = "custom:benchmark:runs:manage"
_ID = r"([0-9]{8}-[0-9]{6}-[0-9a-f]{6})"

#: The most samples of one node that can be asked for by number.
MAX_POINTS = 100_000
#: The report is a page of its own with styles inside; nothing else may load or run in it.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def routes() -> list[tuple[Any, ...]]:
    """Return the routes below the service's prefix."""
    api = r"api/v1/"
    return [
        (r"", OverviewPage),
        (rf"runs/{_ID}", RunPage),
        (r"metrics", MetricsHandler),
        (api + r"suites", SuitesHandler),
        (api + r"runs", RunsHandler),
        (api + rf"runs/{_ID}", RunHandler),
        (api + rf"runs/{_ID}/cancel", CancelHandler),
        (api + rf"runs/{_ID}/events", EventsHandler),
        (api + rf"runs/{_ID}/report", ReportHandler),
        (api + rf"runs/{_ID}/samples", SamplesHandler),
        (api + r"openapi\.json", DescriptionHandler),
    ]


class _Handler(ServiceHandler):
    @property
    def bench(self) -> Bench:
        """The service's runs."""
        bench: Bench = self.service.bench
        return bench

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """Return a query argument.

        Raises
        ------
        InvalidField
            It is none of `allowed`.
        """
        value: str = self.get_query_argument(name, default)
        if value not in allowed:
            raise InvalidField(name, "one of " + ", ".join(allowed), value)
        return value


class SuitesHandler(_Handler):
    """The suites."""

    scopes: ClassVar[dict[str, str]] = {"GET": READ}

    async def get(self) -> None:
        """List suites, and the files that cannot be used."""
        suites, problems = await asyncio.to_thread(self.bench.catalogue.load)
        self.answer({"suites": [to_json(suite) for suite in suites.values()], "problems": problems})


class RunsHandler(_Handler):
    """All runs."""

    scopes: ClassVar[dict[str, str]] = {"GET": READ, "POST": MANAGE}

    async def get(self) -> None:
        """List the newest runs."""
        self.answer({"runs": await self.bench.store.runs()})

    async def post(self) -> None:
        """Start a run."""
        run = await self.bench.start(self.body(RunRequest), self.principal.name)
        self.answer(run, 201)


class RunHandler(_Handler):
    """One run."""

    scopes: ClassVar[dict[str, str]] = {"GET": READ}

    async def get(self, run_id: str) -> None:
        """Answer the run with its results and progress."""
        self.answer(await self.bench.view(run_id))


class CancelHandler(_Handler):
    """The end of a run."""

    scopes: ClassVar[dict[str, str]] = {"POST": MANAGE}

    async def post(self, run_id: str) -> None:
        """Ask for the end of a run."""
        self.body(NoOrder)
        self.answer(await self.bench.cancel(run_id, self.principal.name))


class EventsHandler(_Handler):
    """What happens in a run."""

    scopes: ClassVar[dict[str, str]] = {"GET": READ}

    async def get(self, run_id: str) -> None:
        """Send events until the run has ended."""
        await stream_events(self, await self.bench.follow(run_id))


class ReportHandler(_Handler):
    """The report of a run."""

    scopes: ClassVar[dict[str, str]] = {"GET": READ}

    async def get(self, run_id: str) -> None:
        """Answer it in the format asked for."""
        form = self.choice("format", tuple(FORMATS), "html")
        content = await self.bench.render(run_id, form, self.get_query_argument("against", None))
        self.set_header("Content-Type", FORMATS[form])
        self.set_header("Content-Security-Policy", REPORT_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        await self.finish(content)


class SamplesHandler(_Handler):
    """The samples of a run."""

    scopes: ClassVar[dict[str, str]] = {"GET": READ}

    async def get(self, run_id: str) -> None:
        """Send them as JSON or CSV, all or so many of each node, role and the farm."""
        form, most = self.choice("format", ("json", "csv"), "json"), self.points()
        await self.bench.store.run(run_id)
        samples = self.bench.store.each_sample(run_id, most)
        self.set_header("Content-Type", "application/json" if form == "json" else FORMATS["csv"])
        async for piece in json_text(samples) if form == "json" else csv_text(samples):
            self.write(piece)
            await self.flush()

    def points(self) -> int | None:
        """Return how many samples of each are wanted; None: all.

        Raises
        ------
        InvalidField
            It is no number that there can be.
        """
        text = self.get_query_argument("points", None)
        if text is None:
            return None
        if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= MAX_POINTS:
            raise InvalidField("points", f"a whole number from 1 to {MAX_POINTS}", text)
        return int(text)


class OverviewPage(PageHandler):
    """Suites and runs."""

    scopes: ClassVar[dict[str, str]] = {"GET": READ}

    async def get(self) -> None:
        """Show the page."""
        suites, problems = await asyncio.to_thread(self.service.bench.catalogue.load)
        self.render_page(
            "benchmark.html",
            suites=[to_json(suite) for suite in suites.values()],
            nodes=self.service.bench.nodes(),
            problems=problems,
            may_manage=self.principal.may(MANAGE),
        )


class RunPage(PageHandler):
    """One run, live."""

    scopes: ClassVar[dict[str, str]] = {"GET": READ}

    async def get(self, run_id: str) -> None:
        """Show the page."""
        run = await self.service.bench.store.run(run_id)
        self.render_page("benchmark_run.html", run=run, may_manage=self.principal.may(MANAGE))
