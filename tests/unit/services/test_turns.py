"""Turns at expensive work: who waits, who is refused, and that nobody holds everybody up."""

from __future__ import annotations

import asyncio

import pytest
from waiting import eventually

from jupyterhub_agentfarm.errors import Overloaded, TooMany
from jupyterhub_agentfarm.services.turns import Turns


class Work:
    """Work that begins in turn and ends when it is told to."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.begun, self.end = turns, list[str](), asyncio.Event()

    async def do(self, user: str) -> None:
        """Hold a turn."""
        async with self.turns.turn(user):
            self.begun.append(user)
            await self.end.wait()


async def test_one_user_waits_for_oneself_and_others_do_not() -> None:
    """Of one user one is under way and one waits, the third is refused; another user has the other place at once."""
    work = Work(Turns("things are done", places=2))
    async with asyncio.TaskGroup() as group:
        for user in ("ada", "ada", "bob"):
            group.create_task(work.do(user))
        await eventually(lambda: work.begun == ["ada", "bob"], "the turns have come")
        with pytest.raises(TooMany, match="2 things are done for you already"):
            await work.do("ada")
        work.end.set()
    assert work.begun == ["ada", "bob", "ada"]


async def test_turns_come_in_the_order_of_users() -> None:
    """Who has two waits with the second until another user, who came later, has had one."""
    work = Work(Turns("things are done", places=1))
    async with asyncio.TaskGroup() as group:
        for user in ("ada", "ada", "bob"):
            group.create_task(work.do(user))
        await eventually(lambda: work.begun == ["ada"], "the turns have come")
        work.end.set()
    assert work.begun == ["ada", "bob", "ada"]


async def test_the_wait_is_bounded_and_leaves_nothing() -> None:
    """Whose turn does not come in time is told so, and who went away holds no place."""
    turns = Turns("things are done", places=1, seconds=0.02)
    async with turns.turn("ada"):
        with pytest.raises(Overloaded, match="too many things are done"):
            async with turns.turn("bob"):
                pass
        with pytest.raises(Overloaded):
            async with turns.turn("ada"):
                pass
        assert list(turns._lines) == ["ada"]
    async with turns.turn("bob"):
        assert list(turns._lines) == ["bob"]
    assert not turns._lines
