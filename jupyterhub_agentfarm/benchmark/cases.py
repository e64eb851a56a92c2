"""One case on one node: submit, follow, and say what came out."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import NodeUnreachable, RunFailed
from ..runs.client import FINAL_STATES, Patience, ServerRuns
from .models import CaseError, CaseResult, Outcome
from .suites import Case

#: How much longer than its deadline a run may seem to go on before it is given up: the server counts by itself.
OVERTIME_SECONDS = 30.0
_OUTCOMES: Mapping[str, Outcome] = {
    "cell_timeout": "timed_out",
    "run_timeout": "timed_out",
    "cancelled": "cancelled",
    "server_stopped": "lost",
}
_NO_FIGURES = ("status", "reason", "device", "primary", "name", "title")

Progress = Callable[[Mapping[str, Any]], None]


class CaseOnNode:
    """Runs cases on one node.

    Parameters
    ----------
    node
        Its name.
    runs
        The runs of the server there.
    patience
        How to go on when the server cannot be reached.
    progress
        Is told ``{"node", "case", "cells_done", "cells_total"}`` at every change.
    poll_seconds
        Pause between two looks at a run.
    """

    def __init__(
        self, node: str, runs: ServerRuns, patience: Patience, progress: Progress, poll_seconds: float = 1
    ) -> None:
        self.node = node
        self._runs = runs
        self._patience = patience
        self._progress = progress
        self._poll = poll_seconds

    async def measure(self, case: Case, notebook: Mapping[str, Any], key: str) -> CaseResult:
        """Run `notebook` as `case` and return what came out, whatever it is.

        Parameters
        ----------
        key
            The same key is the same run, when it has to be submitted again.
        """
        started_at, started = time.time(), time.monotonic()
        body = {
            "notebook": notebook,
            "parameters": dict(case.parameters),
            "timeout_seconds": case.timeout_seconds,
            "name": f"benchmark {case.name}",
            "idempotency_key": key,
        }
        try:
            run = await self._finish(case, body)
            published = await self._published(run)
        except NodeUnreachable as exc:
            seconds = time.monotonic() - started
            return CaseResult(self.node, case.name, "lost", exc.message, started_at, seconds)
        except RunFailed as exc:
            return CaseResult(self.node, case.name, "failed", exc.message, started_at, error=CaseError(exc.message))
        return result_of(self.node, case.name, run, published, (started_at, time.monotonic() - started))

    async def _finish(self, case: Case, body: Mapping[str, Any]) -> Mapping[str, Any]:
        run = await self._patience.ask(lambda: self._runs.submit(body))
        run_id = run["id"]
        deadline = time.monotonic() + case.timeout_seconds + OVERTIME_SECONDS
        try:
            while run["state"] not in FINAL_STATES:
                self._tell(case, run)
                await asyncio.sleep(self._poll)
                if time.monotonic() > deadline:
                    await self._cancel(run_id)
                    return {**run, "state": "failed", "reason": "run_timeout", "detail": "the server did not end it"}
                run = await self._patience.ask(lambda: self._runs.get(run_id))
        except asyncio.CancelledError:
            await self._cancel(run_id)
            raise
        self._tell(case, run)
        return run

    async def _published(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        if run["state"] != "completed":
            return {}
        return await self._patience.ask(lambda: self._runs.results(run["id"]))

    async def _cancel(self, run_id: str) -> None:
        """Ask for the run's end, for at most five seconds: its server is stopped afterwards anyway."""
        with contextlib.suppress(NodeUnreachable, RunFailed, TimeoutError):
            async with asyncio.timeout(5):
                await self._runs.cancel(run_id)

    def _tell(self, case: Case, run: Mapping[str, Any]) -> None:
        cells = {key: run.get(key, 0) for key in ("cells_done", "cells_total")}
        self._progress({"node": self.node, "case": case.name, **cells})


def result_of(
    node: str, case: str, run: Mapping[str, Any], published: Mapping[str, Any], timing: tuple[float, float]
) -> CaseResult:
    """Return the result that an ended run stands for.

    Parameters
    ----------
    timing
        When it was submitted, and the seconds since, for a run that does not tell its own duration.
    """
    if run["state"] == "completed":
        outcome: Outcome = "skipped" if published.get("status") == "skipped" else "succeeded"
        reason = str(published.get("reason") or "") if outcome == "skipped" else ""
    else:
        outcome = _OUTCOMES.get(run.get("reason") or run["state"], "failed")
        reason = run.get("detail") or run.get("reason") or run["state"]
    seconds = run.get("duration_seconds")
    primary = published.get("primary")
    return CaseResult(
        node=node,
        case=case,
        outcome=outcome,
        reason=reason,
        started_at=timing[0],
        duration_seconds=float(seconds) if seconds is not None else timing[1],
        figures=figures_of(published),
        primary=primary if isinstance(primary, str) else None,
        device=str(published.get("device") or ""),
        error=_error_of(run.get("error")),
    )


def figures_of(published: Mapping[str, Any]) -> dict[str, object]:
    """Return the numbers among what a notebook published, by name; a nested ``figures`` object is taken too."""
    nested = published.get("figures")
    flat = {**published, **nested} if isinstance(nested, Mapping) else dict(published)
    return {name: value for name, value in flat.items() if name not in _NO_FIGURES and _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _error_of(error: Mapping[str, Any] | None) -> CaseError | None:
    if not error:
        return None
    line = f", line {error['line']}" if error.get("line") else ""
    return CaseError(
        message=f"cell {error.get('cell')}{line}: {error.get('ename')}: {error.get('evalue')}",
        cell=error.get("cell"),
        traceback="\n".join(error.get("traceback") or ()),
    )
