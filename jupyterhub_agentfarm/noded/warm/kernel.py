"""What is asked of the kernel and is in no module of Python."""

from __future__ import annotations

import os
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from jupyterhub_agentfarm.kernels.shown import prctl

_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36


def adopt_orphans(adopting: bool = True) -> None:
    """Become the parent of descendants that lose theirs, as init is otherwise; or leave them to init again."""
    prctl(_PR_SET_CHILD_SUBREAPER, int(adopting))


def allow_looking() -> None:
    """Let this process be looked at by its own account, as one is after it executed a program."""
    prctl(_PR_SET_DUMPABLE, 1)


def close_all_but(kept: Container[int]) -> None:
    """Close the descriptors of this process that are not among `kept`."""
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number not in kept:
            with suppress(OSError):  # the listing's own is gone
                os.close(number)
