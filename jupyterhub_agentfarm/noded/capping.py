"""Logs of servers that do not grow for ever: of one that is too long the end is kept.

The server holds the file open and appends to it, so the file is shortened in place: its end is copied to its
beginning, and it is cut there. What the server writes between the last copy and the cut is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

#: A log that is longer is shortened, in bytes.
MAX_LOG_BYTES = 64 * 2**20
#: What is kept of it, in bytes. Less than the half, so that the copy never reaches what it is made from.
KEPT_LOG_BYTES = 16 * 2**20
#: Pause between two looks, in seconds: a server that writes 200 MB/s fills 2 GB meanwhile.
LOOK_SECONDS = 10.0

_CHUNK_BYTES = 2**20


def cap_logs(paths: Iterable[Path]) -> None:
    """Shorten each log that is longer than `MAX_LOG_BYTES`; one that cannot be shortened is reported."""
    for path in paths:
        try:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size > MAX_LOG_BYTES:
                    keep_end(path, KEPT_LOG_BYTES)
        except OSError as exc:
            log.warning("%s is longer than %d bytes and cannot be shortened: %s", path, MAX_LOG_BYTES, exc)


def keep_end(path: Path, kept_bytes: int) -> None:
    """Shorten a file to its last whole lines, `kept_bytes` of them and what is appended meanwhile."""
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        at = os.fstat(handle).st_size - kept_bytes
        head = os.pread(handle, _CHUNK_BYTES, at)
        at += head.find(b"\n") + 1
        length = 0
        while chunk := os.pread(handle, _CHUNK_BYTES, at):
            os.pwrite(handle, chunk, length)
            at += len(chunk)
            length += len(chunk)
        os.ftruncate(handle, length)
    finally:
        os.close(handle)


async def cap_logs_for_ever(folder: Path) -> None:
    """Look after the logs of a folder until cancelled."""
    while True:
        await asyncio.to_thread(lambda: cap_logs(list(folder.glob("*.log"))))
        await asyncio.sleep(LOOK_SECONDS)
