"""The process that noded watches for a container: it starts it, passes signals on, ends as it ends, and removes it.

``python -I -S minding.py CLIENT NAME run …``: the engine's client, the container's name, and the arguments of the
client. The server's environment is in the variable `ENVIRONMENT`, as JSON, and goes to the container through stdin. The
container's output is this process's, and so is its exit status: above 128 a signal ended it, and `OUT_OF_MEMORY` says
that the engine saw it killed at its memory limit.

Should it be killed, the container goes on without it; noded then ends what is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

#: Holds the server's environment.
ENVIRONMENT = "AGENTFARM_CONTAINER_ENVIRONMENT"
#: Exit status for a container that was killed at its memory limit; no signal has this number.
OUT_OF_MEMORY = 250
#: Exit status of what SIGKILL ended.
_KILLED = 137
_ASK_SECONDS = 10.0
_PAUSE_SECONDS = 0.2


class Container:
    """The container.

    Parameters
    ----------
    client
        Path of the engine's client.
    name
        Of the container.
    """

    def __init__(self, client: str, name: str) -> None:
        self._client, self._name = client, name
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False

    def run(self, arguments: list[str], environment: bytes) -> int:
        """Start it, wait for its end, and return the client's exit status."""
        self._ask("rm", "--force", self._name)
        self._process = subprocess.Popen([self._client, *arguments], stdin=subprocess.PIPE)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the client gave up already, and says why
            self._process.stdin.write(environment)
            self._process.stdin.close()
        code = self._process.wait()
        self._ended = True
        return code

    def signal(self, number: int, _frame: Any) -> None:
        """Pass a signal on, as soon as there is a container; what comes after its end is of no use."""
        name = signal.Signals(number).name
        while not self._client_ended():
            if self._ask("kill", "--signal", name, self._name).returncode == 0:
                return
            time.sleep(_PAUSE_SECONDS)

    def _client_ended(self) -> bool:
        if self._process is None or self._ended:
            return self._ended
        # Not poll(): this runs inside wait(), which alone may reap it.
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def killed_for_memory(self) -> bool:
        """Return whether the engine says so."""
        return self._ask("inspect", "--format", "{{.State.OOMKilled}}", self._name).stdout.strip() == b"true"

    def remove(self) -> None:
        """Remove it."""
        self._ask("rm", "--force", self._name)

    def _ask(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        argv = [self._client, *words]
        try:
            return subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return subprocess.CompletedProcess(argv, 1, b"", b"")


def main() -> None:
    """Mind one container."""
    client, name, *arguments = sys.argv[1:]
    environment = os.environ.pop(ENVIRONMENT).encode()
    container = Container(client, name)
    signal.signal(signal.SIGTERM, container.signal)
    code = container.run(arguments, environment)
    if code == _KILLED and container.killed_for_memory():
        os.write(2, b"The container was killed because it reached its memory limit.\n")
        code = OUT_OF_MEMORY
    container.remove()
    os._exit(code)


if __name__ == "__main__":
    main()
