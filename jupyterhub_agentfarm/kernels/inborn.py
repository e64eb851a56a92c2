"""A zygote that a server is born with.

A server that was forked itself is forked once more before it begins, from a process that has imported what servers and
kernels need (:mod:`..noded.warm`). What comes of that does nothing, and has next to nothing of its own, until the
server asks for its first kernel. Then it is told the server's variables and becomes the server's zygote: the first
kernel is a fork as well, without imports to wait for::

    server                                                  inborn
      | {"environment", "libraries", "idle_seconds"}  ---->  |
      | <-------------- {"read"}, {"ready"} ---------------  |  from here on as any other zygote

A server that never has a kernel, or wants no forked ones, closes the connection; the inborn process ends with it.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from .packages import Packages
from .process import Child

#: Written in Python alone, so that they can be imported twice: jsonschema without the formats that servers leave out,
#: and a registry with Jupyter Server's metrics.
_SERVERS_OWN = frozenset({"jsonschema", "prometheus_client"})
#: Most bytes of what the server says: variables, above all.
_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Imported:
    """What the process that servers are forked from has done while it imported."""

    #: Names of the variables that were read.
    read: frozenset[str]
    #: Variables that were set, with their values, and removed, with None.
    written: Mapping[str, str | None]


#: What an ordinary zygote begins with.
NOTHING = Imported(frozenset(), {})


@dataclass(frozen=True)
class Inborn:
    """A zygote that has not begun yet, as its server holds it."""

    process: Child
    control: socket.socket
    #: The variables that the server was born with.
    environment: Mapping[str, str]
    imported: Imported


_held: list[Inborn] = []


def hold(inborn: Inborn) -> None:
    """Keep it until somebody takes it."""
    _held.append(inborn)


def take() -> Inborn | None:
    """Return the one that this process was born with, the first time."""
    return _held.pop() if _held else None


def forget() -> None:
    """Have kernels import anew what servers keep something in: what they left out, and metrics of their own."""
    for name, module in list(sys.modules.items()):
        if module is None or name.partition(".")[0] in _SERVERS_OWN:
            del sys.modules[name]


def live(control: socket.socket, imported: Imported) -> None:
    """Be inborn, then a zygote, and return when that is over, or in each of its forks when the kernel has ended.

    Parameters
    ----------
    control
        The connection to the server, beside the standard streams the only thing that is open.
    imported
        What was imported before.
    """
    packages = Packages()  # now, while what was imported is known to be what is installed
    message = control.recv(_MESSAGE_BYTES)
    if not message:
        os._exit(0)
    told = json.loads(message)
    os.environ.clear()
    os.environ.update(told["environment"])
    forget()

    from .zygote import begin

    forked = begin(control, told["libraries"], told["idle_seconds"], imported, packages)
    if forked is not None:
        from .kernel import run

        run(forked.channel, forked.streams, forked.written)
