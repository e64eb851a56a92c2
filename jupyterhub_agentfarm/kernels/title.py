"""The command line that ps shows."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path


def set_title(command: Sequence[str]) -> None:
    """Have this process show `command`, as far as its own command line leaves room.

    The kernel shows what lies in the process's memory where its arguments were put, so that is written there.
    """
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, ValueError, IndexError):
        return
    if 0 < start < end:
        room = end - start
        text = b" ".join(word.encode(errors="surrogateescape") for word in command)[: room - 2]
        # A last byte that is not NUL tells the kernel that this is one text, which ends at the first NUL.
        ctypes.memmove(start, text.ljust(room - 1, b"\0") + b".", room)
