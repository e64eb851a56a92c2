"""The client of the benchmark service's REST API, for the command line and for programs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any
from urllib.parse import urlencode

from ..services.client import ServiceClient


class BenchmarkClient(ServiceClient):
    """A client of the benchmark service.

    It finds the service of this machine in the runtime directory; for another machine it is given `url` and `token`.
    """

    service = "benchmark"

    async def suites(self) -> list[dict[str, Any]]:
        """Return the suites."""
        return list((await self._json("GET", "suites"))["suites"])

    async def runs(self) -> list[dict[str, Any]]:
        """Return the newest runs, the newest first."""
        return list((await self._json("GET", "runs"))["runs"])

    async def start(self, suite: str, nodes: Sequence[str] | None = None, **wanted: Any) -> dict[str, Any]:
        """Start a run of `suite` on `nodes`, or on those that the suite is for, and return it.

        Parameters
        ----------
        wanted
            Other fields of :class:`~.models.RunRequest`; what is left out is as the suite says.

        Raises
        ------
        NotFoundError
            There is no such suite.
        InvalidField
            There is no such node.
        ConflictError
            A run is going on one of the nodes, or no node can take part.
        """
        body = {"suite": suite, "nodes": None if nodes is None else list(nodes), **wanted}
        return dict(await self._json("POST", "runs", body))

    async def run(self, run_id: str) -> dict[str, Any]:
        """Return a run with its results and progress."""
        return dict(await self._json("GET", f"runs/{run_id}"))

    async def cancel(self, run_id: str) -> dict[str, Any]:
        """Ask for the end of a run and return it as it is now."""
        return dict(await self._json("POST", f"runs/{run_id}/cancel", {}))

    async def report(self, run_id: str, form: str = "html") -> str:
        """Return the report as text: html, json, csv or md."""
        return (await self.report_file(run_id, form)).decode()

    async def report_file(self, run_id: str, form: str = "html", against: str | None = None) -> bytes:
        """Return the report as it is to be written to a file: html, json, csv, md or pdf.

        Parameters
        ----------
        against
            The run that it is compared with.
        """
        query = urlencode({"format": form, **({"against": against} if against else {})})
        return b"".join([chunk async for chunk in self.download(f"runs/{run_id}/report?{query}")])

    async def samples(self, run_id: str, points: int | None = None) -> list[dict[str, Any]]:
        """Return the samples of a run in the order of time; with `points` about so many of each node."""
        thinned = "" if points is None else f"?points={points}"
        return list((await self._json("GET", f"runs/{run_id}/samples{thinned}"))["samples"])

    def events(self, run_id: str) -> AsyncGenerator[tuple[str, Any], None]:
        """Follow a run: `run`, `result`, `progress`, `event` and `sample`, until it has ended.

        Raises
        ------
        FarmUnavailable
            The connection was lost.
        """
        return self.follow(f"runs/{run_id}/events")
