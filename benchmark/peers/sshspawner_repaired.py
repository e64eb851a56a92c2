"""sshspawner 0.0.1a4, repaired just enough to start a server on JupyterHub 6; runs in an environment of its own.

Its ``start``, ``poll``, ``stop`` and every SSH connection are its own code, untouched. What was repaired, and why:

==============================  ==================================================================================
repair                          without it
==============================  ==================================================================================
values are quoted               ``export K=V`` without quotes cuts JSON values such as the OAuth scopes at the first
                                space, and the server ends at its start
the server is told its port     the port is put in the arguments, which JupyterHub ignores since 2.0; the server
                                would take port 80
one account on the nodes        it logs in as an account with the user's name; the nodes of this measurement have one
a program that finds a port     the wheel does not contain the ``get_port.py`` that it calls (an option names ours)
==============================  ==================================================================================

Executed as a program it measures its ``poll``::

    python sshspawner_repaired.py HOST KEYFILE PID COUNT
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import shlex
import sys
import time
from types import SimpleNamespace
from typing import Any

from jupyterhub.spawner import Spawner
from sshspawner.sshspawner import SSHSpawner


class _ToldOfItsPort(Spawner):
    """Stands between sshspawner and JupyterHub's Spawner, whose environment it hands on fit for a shell."""

    async def start(self) -> Any:
        """Never called: JupyterHub wants these three of every subclass, and sshspawner's come first."""
        raise NotImplementedError

    stop = poll = start

    def get_env(self) -> dict[str, str]:
        """Return the environment, with the URL to listen at, each value quoted."""
        self.ip, self.port = self.remote_ip, int(self.remote_port)
        return {name: shlex.quote(value) for name, value in super().get_env().items()}


class RepairedSSHSpawner(SSHSpawner, _ToldOfItsPort):
    """sshspawner, repaired."""

    def get_remote_user(self, username: str) -> str:
        """Return the one account of the nodes."""
        return "root"


class _ToPoll(SSHSpawner):
    """An SSHSpawner without a Hub: only its ``poll`` is used."""

    def __init__(self, host: str, keyfile: str, pid: int) -> None:
        # JupyterHub's constructor wants a Hub; the traits that `poll` reads need none.
        self.set_trait("pid", pid)
        self.ssh_keyfile, self.remote_ip = keyfile, host
        self.user = SimpleNamespace(name="root")
        self.log = logging.getLogger("poll")

    def clear_state(self) -> None:
        """Keep the process id: the next poll asks for it again."""


async def _poll(spawners: list[_ToPoll], together: bool) -> dict[str, Any]:
    began, cpu = time.monotonic(), _cpu_seconds()
    if together:
        answers = await asyncio.gather(*(spawner.poll() for spawner in spawners), return_exceptions=True)
    else:
        answers = [await spawner.poll() for spawner in spawners]
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": _cpu_seconds() - cpu,
        "failed": sum(isinstance(answer, BaseException) or answer is not None for answer in answers),
    }


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _measure(host: str, keyfile: str, pid: int, count: int) -> dict[str, Any]:
    spawners = [_ToPoll(host, keyfile, pid) for _ in range(count)]
    return {
        "one_after_the_other": await _poll(spawners, together=False),
        "all_at_once": await _poll(spawners, together=True),
    }


if __name__ == "__main__":
    _host, _keyfile, _pid, _count = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(_measure(_host, _keyfile, int(_pid), int(_count)))) + "\n")
