"""Warm starts take turns, and those that hang keep no others waiting."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import eventually

from jupyterhub_agentfarm.noded.warm import zygotes as zygotes_module
from jupyterhub_agentfarm.noded.warm.environments import Environment
from jupyterhub_agentfarm.noded.warm.zygotes import WarmOptions, Zygotes


@pytest.fixture
def turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Zygotes, Any]:
    """Give zygotes that let two start at a time, and a launch that is to be warm."""
    monkeypatch.setattr(zygotes_module.os, "cpu_count", lambda: 2)
    made = Zygotes(WarmOptions(), tmp_path / "warm")
    made._of(Environment(sys.executable)).zygote = SimpleNamespace()  # type: ignore[assignment]
    return made, SimpleNamespace(command=(sys.executable, "-m", "jupyterhub_agentfarm.server"))


async def started(turns: tuple[Zygotes, Any], begun: list[int], number: int, go: asyncio.Event) -> None:
    """Take a turn, say so, and keep it until `go`."""
    zygotes, spec = turns
    async with zygotes.turn(spec):
        begun.append(number)
        await go.wait()


async def test_others_wait_for_a_turn(turns: tuple[Zygotes, Any]) -> None:
    """The third begins when one of two has ended."""
    begun: list[int] = []
    first, rest = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for number, go in enumerate((first, rest, rest)):
            group.create_task(started(turns, begun, number, go))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert begun == [0, 1]
        first.set()
        await eventually(lambda: begun == [0, 1, 2], "the third has its turn")
        rest.set()


async def test_turns_that_hang(turns: tuple[Zygotes, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """When neither of two moves, the third goes on without one, and gives none back."""
    monkeypatch.setattr(zygotes_module, "_HANGS_SECONDS", 0.02)
    begun: list[int] = []
    go = asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(started(turns, begun, number, go))
        await eventually(lambda: len(begun) == 3, "the third has begun")
        go.set()
    assert turns[0]._turns._value == 2
