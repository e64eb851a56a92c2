"""Waiting in tests: a condition, a deadline and a message. Never a fixed sleep."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(
    predicate: Callable[[], Any] | Callable[[], Awaitable[Any]],
    message: str,
    timeout: float = 10,
    interval: float = 0.02,
) -> Any:
    """Return the first true value of `predicate`, asked again and again until `timeout` seconds are over."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {message}; last seen: {value!r}")
        await asyncio.sleep(interval)
