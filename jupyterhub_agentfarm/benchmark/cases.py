"""One case on one node: submit, follow, and say what came out."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ..errors import NodeUnreachable, RunFailed
from ..runs.client import FINAL_STATES, RunRefused, ServerRuns
from .models import CaseError, CaseResult, Outcome
from .suites import Case

#: How much longer than its deadline a run may seem to go on before it is given up: the server counts by itself.
OVERTIME_SECONDS = 30.0
#: How long the removal of a kept run may take.
FORGET_SECONDS = 10.0
_OUTCOMES: Mapping[str, Outcome] = {
    "cell_timeout": "timed_out",
    "run_timeout": "timed_out",
    "cancelled": "cancelled",
    "server_stopped": "lost",
}
_NO_FIGURES = ("status", "reason", "device", "primary", "name", "title")

Progress = Callable[[Mapping[str, Any]], None]
T = TypeVar("T")


class Asker(Protocol):
    """Whoever asks a server, again and again while it cannot be reached."""

    #: Whether runs that are not waited for any more are to end.
    leaving: bool

    async def ask(self, question: Callable[[ServerRuns], Awaitable[T]]) -> T:
        """Return the answer.

        Raises
        ------
        NodeUnreachable
            The server is lost.
        """


@dataclass(frozen=True)
class Order:
    """One case in one repetition of one lane of a node, in a phase of a run."""

    case: Case
    notebook: Mapping[str, Any]
    #: The same key is the same run, when it has to be submitted again.
    key: str
    phase: str = ""
    lane: int = 0
    repetition: int = 1
    warm_up: bool = False
    #: Further variables of the kernel.
    environment: Mapping[str, str] = field(default_factory=dict)

    def result(self, node: str, outcome: Outcome, reason: str = "", **more: Any) -> CaseResult:
        """Return what came out of it."""
        return CaseResult(
            node=node,
            case=self.case.name,
            outcome=outcome,
            reason=reason,
            phase=self.phase,
            lane=self.lane,
            repetition=self.repetition,
            warm_up=self.warm_up,
            **more,
        )


class CaseOnNode:
    """Runs cases on one node.

    Parameters
    ----------
    node
        Its name.
    server
        Asks the server there.
    progress
        Is told ``{"node", "phase", "lane", "repetition", "case", "cells_done", "cells_total"}`` at every change.
    poll_seconds
        Time between two looks at how far a run is; its end is known at once.
    skew_seconds
        Gives the service's clock minus the node's.
    """

    def __init__(
        self,
        node: str,
        server: Asker,
        progress: Progress,
        poll_seconds: float = 1,
        skew_seconds: Callable[[], float] = float,
    ) -> None:
        self.node = node
        self._server = server
        self._progress = progress
        self._poll = poll_seconds
        self._skew = skew_seconds
        #: Runs on the server that succeeded and were not forgotten yet, by their keys.
        self._ids: dict[str, str] = {}

    async def measure(self, order: Order) -> CaseResult:
        """Carry out an order and return what came out, whatever it is."""
        started_at, started = time.time(), time.monotonic()
        try:
            run = await self._finish(order)
            published = await self._published(run)
        except (NodeUnreachable, RunFailed) as exc:
            outcome: Outcome = "lost" if _is_lost(exc) else "failed"
            error = None if outcome == "lost" else CaseError(exc.message)
            seconds = time.monotonic() - started
            told = {"started_at": started_at, "duration_seconds": seconds, "ended_at": time.time(), "error": error}
            return order.result(self.node, outcome, exc.message, **told)
        timing = (started_at, time.monotonic() - started, self._skew())
        result = result_of(self.node, order, run, published, timing)
        if result.outcome == "succeeded":
            self._ids[order.key] = run["id"]
        return result

    async def forget(self, order: Order) -> None:
        """Have the server forget a run that succeeded and whose result was kept: those of hours would fill its disk.

        The others stay, for people to look at, until the server prunes its runs; so does what cannot be forgotten now.
        """
        run_id = self._ids.pop(order.key, None)
        if run_id is None:
            return
        with contextlib.suppress(NodeUnreachable, RunFailed, TimeoutError):
            async with asyncio.timeout(FORGET_SECONDS):
                await self._server.ask(lambda runs: runs.remove(run_id))

    async def _finish(self, order: Order) -> Mapping[str, Any]:
        run = await self._server.ask(lambda runs: runs.submit(body_of(order)))
        run_id, executing_since = run["id"], None
        try:
            while run["state"] not in FINAL_STATES:
                self._tell(order, run)
                run = await self._server.ask(lambda runs: runs.get(run_id, self._poll))
                if run["state"] == "executing":
                    executing_since = executing_since or time.monotonic()
                    if time.monotonic() > executing_since + order.case.timeout_seconds + OVERTIME_SECONDS:
                        await self._cancel(run_id)
                        return {
                            **run,
                            "state": "failed",
                            "reason": "run_timeout",
                            "detail": "the server did not end it",
                        }
        except asyncio.CancelledError:
            if self._server.leaving:
                await self._cancel(run_id)
            raise
        self._tell(order, run)
        return run

    async def _published(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        if run["state"] != "completed":
            return {}
        return await self._server.ask(lambda runs: runs.results(run["id"]))

    async def _cancel(self, run_id: str) -> None:
        """Ask for the run's end, for at most five seconds: its server is stopped afterwards anyway."""
        with contextlib.suppress(NodeUnreachable, RunFailed, TimeoutError):
            async with asyncio.timeout(5):
                await self._server.ask(lambda runs: runs.cancel(run_id))

    def _tell(self, order: Order, run: Mapping[str, Any]) -> None:
        place = {"phase": order.phase, "lane": order.lane, "repetition": order.repetition, "warm_up": order.warm_up}
        cells = {key: run.get(key, 0) for key in ("cells_done", "cells_total")}
        self._progress({"node": self.node, "status": "running", "case": order.case.name, **place, **cells})


def _is_lost(exc: Exception) -> bool:
    """Whether an error means that the server, or what it knew of the run, is gone."""
    return isinstance(exc, NodeUnreachable) or (isinstance(exc, RunRefused) and exc.status == 404)


def body_of(order: Order) -> dict[str, Any]:
    """Return what is submitted for an order."""
    return {
        "notebook": order.notebook,
        "parameters": dict(order.case.parameters),
        "timeout_seconds": order.case.timeout_seconds,
        "name": f"benchmark {order.case.name}",
        "idempotency_key": order.key,
        "environment": dict(order.environment),
    }


def result_of(
    node: str,
    order: Order,
    run: Mapping[str, Any],
    published: Mapping[str, Any],
    timing: tuple[float, float, float],
) -> CaseResult:
    """Return the result that an ended run stands for.

    Parameters
    ----------
    timing
        When it was submitted and the seconds since, for a run that does not tell its own times; and the service's
        clock minus the node's.
    """
    if run["state"] == "completed":
        outcome: Outcome = "skipped" if published.get("status") == "skipped" else "succeeded"
        reason = str(published.get("reason") or "") if outcome == "skipped" else ""
    else:
        outcome = _OUTCOMES.get(run.get("reason") or run["state"], "failed")
        reason = run.get("detail") or run.get("reason") or run["state"]
    submitted_at, waited, skew = timing
    seconds, primary = run.get("duration_seconds"), published.get("primary")
    started_at = _at(run.get("started_at"), skew)
    return order.result(
        node,
        outcome,
        reason,
        started_at=submitted_at if started_at is None else started_at,
        ended_at=_at(run.get("ended_at"), skew) or submitted_at + waited,
        duration_seconds=float(seconds) if seconds is not None else waited,
        figures=figures_of(published),
        primary=primary if isinstance(primary, str) else None,
        device=str(published.get("device") or ""),
        error=_error_of(run.get("error")),
    )


def _at(moment: str | None, skew_seconds: float) -> float | None:
    """Return a time of the node's in the service's clock."""
    return None if moment is None else dt.datetime.fromisoformat(moment).timestamp() + skew_seconds


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
