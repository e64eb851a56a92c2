"""Ports for programs that take no port 0, also when they are started again.

They are below those that the kernel gives to whoever asks for any port: of these, each may be taken at any moment, if
only as the near end of somebody's connection, and a program that is started again on its port would not get it.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

_FIRST = 15_000


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports of an address on which nobody listened a moment ago."""
    of_the_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # Not by `random`: pytest-randomly gives the same seed to tests that run at the same time.
    numbers = secrets.SystemRandom().sample(range(_FIRST, max(of_the_kernel, _FIRST + 10_000)), 10 * count + 50)
    found: list[int] = []
    for number in numbers:
        with suppress(OSError), socket.create_server((host, number)):
            found.append(number)
            if len(found) == count:
                return found
    raise AssertionError(f"of {len(numbers)} ports below {of_the_kernel} only {len(found)} are free")
