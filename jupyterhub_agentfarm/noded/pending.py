"""A launch that is under way, as a stop sees it.

::

    nothing started ──permit──▶ starting ──began──▶ known process ──(its port was taken)──▶ starting …

A stop calls the launch off: no process is started any more. Between `permit` and `began` there may be a process that
nobody knows yet, so the stop waits for the one or for the launch's end.
"""

from __future__ import annotations

import asyncio
import contextlib

from .listening import failed


class Pending:
    """A launch that is under way."""

    def __init__(self) -> None:
        self._called_off = False
        self._known = asyncio.Event()

    def permit(self) -> None:
        """Allow a process to be started now.

        Raises
        ------
        LaunchFailed
            The lease was stopped meanwhile.
        """
        if self._called_off:
            raise failed("the lease was stopped before its server was started")
        self._known.clear()

    def known(self) -> None:
        """Say that the process is on record, or that the launch is over."""
        self._known.set()

    async def call_off(self, seconds: float) -> bool:
        """Let no process be started any more; return whether within `seconds` it is known what there is to stop."""
        self._called_off = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._known.wait()
        return self._known.is_set()
