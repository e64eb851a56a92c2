"""What noded owes the processes that it has adopted: that they do not stay in the table when they have ended.

Servers are waited for by who watches them. What else comes to noded, because its own parent has ended, is nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from .. import procfs
from .kernel import adopt_orphans

#: A process that ended and was not waited for during this time, in seconds, is nobody's.
PATIENCE_SECONDS = 1.0


async def reap_for_ever(patience: float = PATIENCE_SECONDS) -> None:
    """Adopt orphans, and reap those that end, until cancelled."""
    adopt_orphans()
    before: set[tuple[int, int]] = set()
    try:
        while True:
            await asyncio.sleep(patience)
            ended = await asyncio.to_thread(_ended)
            for pid, _ in ended & before:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it has ended
            before = ended
    finally:
        adopt_orphans(False)  # who does not reap must not adopt


def _ended() -> set[tuple[int, int]]:
    processes = (procfs.read(pid) for pid in procfs.children(os.getpid()))
    return {(found.pid, found.start_ticks) for found in processes if found is not None and found.zombie}
