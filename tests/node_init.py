"""The first process of a separate node: it starts sshd and then only reaps, so that sshd can end without the node.

Run as ``python -I -S node_init.py SSHD ARGUMENT...``; the program is started again by whoever wants it again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


subprocess.Popen(sys.argv[1:], preexec_fn=_unblock)  # noqa: PLW1509 - there is one thread
while True:
    signal.sigwait([signal.SIGCHLD])
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
