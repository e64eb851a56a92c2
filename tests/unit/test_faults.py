"""Where exceptions that nobody foresaw end, and what is undone then."""

from __future__ import annotations

import asyncio
import logging

import pytest

from jupyterhub_agentfarm.errors import ConflictError
from jupyterhub_agentfarm.faults import Edge, undone

log = logging.getLogger(__name__)


def test_a_fault_ends_at_the_edge(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback and kept; nothing of it goes on."""
    with Edge(log, "100% of it failed") as edge:
        raise ZeroDivisionError("by nothing")
    assert isinstance(edge.fault, ZeroDivisionError)
    assert "100% of it failed" in caplog.text
    assert "ZeroDivisionError: by nothing" in caplog.text


def test_without_a_fault_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """What succeeds leaves neither a line nor a fault."""
    with Edge(log, "it failed") as edge:
        pass
    assert edge.fault is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    "raised", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), ConflictError("taken")]
)
def test_what_is_no_fault_passes(raised: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """Ends that were asked for, and errors that the caller expects, pass without a line."""
    with pytest.raises(type(raised)), Edge(log, "it failed", ConflictError) as edge:
        raise raised
    assert edge.fault is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("raised", "undoings"),
    [(None, 0), (ZeroDivisionError(), 1), (ConflictError("taken"), 1), (asyncio.CancelledError(), 0)],
)
async def test_what_was_begun_is_undone_when_the_rest_fails(raised: BaseException | None, undoings: int) -> None:
    """A failure undoes it and goes on; success and a cancellation leave it."""
    done = []

    async def undo() -> None:
        done.append("undone")

    async def work() -> None:
        async with undone(undo):
            if raised is not None:
                raise raised

    (result,) = await asyncio.gather(work(), return_exceptions=True)
    assert type(result) is type(raised)
    assert len(done) == undoings
