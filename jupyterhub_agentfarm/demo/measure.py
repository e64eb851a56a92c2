"""The demo's benchmark: the suite on all nodes at once, then the report."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from ..benchmark.client import BenchmarkClient
from ..errors import FarmUnavailable, RunFailed
from ..services.local import write_private
from ..terminal.following import failure, follow, summary, verdict
from ..terminal.progress import Bars

_SERVICE_SECONDS = 60
_RUN_SECONDS = 900
_POLL_SECONDS = 0.5


async def measure(runtime_dir: Path, suite: str, report: Path, bars: Bars) -> None:
    """Run `suite` on all nodes and write the report.

    Raises
    ------
    RunFailed
        A case did not succeed, or the run did not end in time; the report is written all the same where there is one.
    FarmUnavailable
        The benchmark service does not answer.
    """
    client = BenchmarkClient(runtime_dir=str(runtime_dir))
    try:
        run = await _start(client, suite, bars)
        try:
            async with asyncio.timeout(_RUN_SECONDS):
                view = await follow(client.events(run["id"]), bars)
        except TimeoutError as exc:
            raise RunFailed(f"the benchmark was not done after {_RUN_SECONDS} s") from exc
        view = view or await client.run(run["id"])
        for line in (*verdict(view), summary(view)):
            bars.say(line)
        write_private(report, await client.report(run["id"], "html"))
    finally:
        await client.aclose()
    why = failure(view)
    if why is not None:
        raise RunFailed(why)


async def _start(client: BenchmarkClient, suite: str, bars: Bars) -> dict[str, Any]:
    """Start the run; the service may need a moment longer than the nodes."""
    deadline = time.monotonic() + _SERVICE_SECONDS
    while True:
        try:
            return await client.start(suite)
        except FarmUnavailable:
            if time.monotonic() > deadline:
                raise
            bars.show("benchmark", 0, 1, "waiting for the benchmark service")
            await asyncio.sleep(_POLL_SECONDS)
