"""A server that is forked bears the zygote of its kernels before it begins; see :mod:`...kernels.inborn`."""

from __future__ import annotations

import os
import socket
import sys

from jupyterhub_agentfarm.kernels import inborn
from jupyterhub_agentfarm.kernels.process import Child
from jupyterhub_agentfarm.kernels.running import ZYGOTE
from jupyterhub_agentfarm.kernels.shown import show

from .kernel import close_all_but

_STREAMS = range(3)


def bear(imported: inborn.Imported, without: str) -> bool:
    """Fork; return false in the server, and true in what was born, when it has been a zygote, or a kernel, and is done.

    Parameters
    ----------
    imported
        What was imported.
    without
        A variable that is the server's alone.
    """
    environment = {name: value for name, value in os.environ.items() if name != without}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError:  # at its limit of processes a server does without
        ours.close()
        theirs.close()
        return False
    if pid == 0:
        ours.close()
        control = _alone(theirs)
        show([sys.executable, "-m", ZYGOTE], environment)  # as an ordinary one
        inborn.live(control, imported)
        return True
    theirs.close()
    inborn.hold(inborn.Inborn(Child(pid), ours, environment, imported))
    return False


def _alone(control: socket.socket) -> socket.socket:
    """Leave the server's session and directory, and close what is its own; return the connection to it."""
    os.setsid()
    os.chdir("/")
    number = control.detach()
    close_all_but({*_STREAMS, number})
    return socket.socket(fileno=number)
