"""A bad cable: frames between two TAP devices, delayed, lost and slowed down.

Many kernels have no `tc netem`, so the cable is a program: ``python relay.py TAP-A TAP-B SETTINGS``. SETTINGS is a JSON
file, read again whenever it changes: `delay_seconds` and `jitter_seconds` (each way; the order of frames is kept),
`loss` (0-1 of all frames, each way), `rate_bits` per second (each way; 0: no limit). :func:`faults.slow` plugs it in.
"""

from __future__ import annotations

import asyncio
import collections
import fcntl
import json
import os
import random
import struct
import sys
import time
from pathlib import Path

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME_BYTES = 2048
#: Frames that wait in one direction; what comes when they are so many is lost, as in a switch.
QUEUE_FRAMES = 2000


class Settings:
    """What the cable does now."""

    def __init__(self, path: Path) -> None:
        self._path, self._changed = path, 0
        self.delay_seconds = self.jitter_seconds = self.loss = self.rate_bits = 0.0

    def refresh(self) -> None:
        """Read the file when it is new."""
        changed = self._path.stat().st_mtime_ns
        if changed != self._changed:
            for name, value in json.loads(self._path.read_text()).items():
                setattr(self, name, float(value))
            self._changed = changed


class Direction:
    """One direction of the cable."""

    def __init__(self, source: int, target: int, settings: Settings) -> None:
        self._source, self._target, self._settings = source, target, settings
        self._queue: collections.deque[tuple[float, bytes]] = collections.deque()
        self._free_at = self._last_at = 0.0

    def read(self) -> None:
        """Take what has come in."""
        settings, loop = self._settings, asyncio.get_running_loop()
        while True:
            try:
                frame = os.read(self._source, FRAME_BYTES)
            except BlockingIOError:
                return
            if random.random() < settings.loss or len(self._queue) >= QUEUE_FRAMES:  # noqa: S311 - a cable, no secret
                continue
            now = time.monotonic()
            if settings.rate_bits:
                self._free_at = max(now, self._free_at) + len(frame) * 8 / settings.rate_bits
            sent_at = max(now, self._free_at) if settings.rate_bits else now
            jitter = random.uniform(-1, 1) * settings.jitter_seconds  # noqa: S311 - a cable, no secret
            due = sent_at + settings.delay_seconds + jitter
            self._last_at = max(due, self._last_at)
            self._queue.append((self._last_at, frame))
            loop.call_later(max(0.0, self._last_at - now), self._write)

    def _write(self) -> None:
        while self._queue and self._queue[0][0] <= time.monotonic() + 0.0005:
            try:
                os.write(self._target, self._queue.popleft()[1])
            except OSError:
                return


def open_tap(name: str) -> int:
    """Return a file descriptor of a TAP device."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


async def relay(names: list[str], settings: Settings) -> None:
    """Relay until killed."""
    a, b = (open_tap(name) for name in names)
    loop = asyncio.get_running_loop()
    settings.refresh()
    loop.add_reader(a, Direction(a, b, settings).read)
    loop.add_reader(b, Direction(b, a, settings).read)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        await asyncio.sleep(0.05)
        settings.refresh()


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1:3], Settings(Path(sys.argv[3]))))
