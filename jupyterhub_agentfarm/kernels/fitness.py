"""What a process must not have when it forks: threads, connections to devices, anything that a fork would share.

Checked in a fork of its own after each import, before the import is done in the zygote itself.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

#: Links of /proc/self/fd to what two processes cannot use at once.
_SHARED = ("socket:", "anon_inode:", "pipe:")
_DEVICES = "/dev/nvidia"


def threads() -> int:
    """Return the number of threads of this process, those of libraries included."""
    status = Path("/proc/self/status").read_text("ascii", errors="replace")
    return int(status.partition("Threads:")[2].split(maxsplit=1)[0])


def descriptors() -> frozenset[tuple[int, str]]:
    """Return the open file descriptors and what they are open on."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - the numbers are wanted
        with contextlib.suppress(OSError):
            found.add((int(entry), os.readlink(f"/proc/self/fd/{entry}")))  # noqa: PTH115 - the text is wanted
    return frozenset(found)


def unfit(before: frozenset[tuple[int, str]]) -> str | None:
    """Return why this process should not be forked, in a few words; None: it may.

    Parameters
    ----------
    before
        The descriptors that it may have.
    """
    # Libraries such as OpenBLAS end their threads before a fork and make new ones when they need them.
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    if threads() > 1:
        return "it left threads running"
    opened = sorted(link for _, link in descriptors() - before if link.startswith((*_SHARED, _DEVICES)))
    if opened:
        return f"it left open {opened[0]}"
    if _DEVICES in Path("/proc/self/maps").read_text("utf-8", errors="replace"):
        return "it mapped a GPU into memory"
    return _cuda()


def _cuda() -> str | None:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return "it initialised CUDA" if cuda is not None and cuda.is_initialized() else None
