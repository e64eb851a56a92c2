"""The benchmark service as a process, in a world of doubles (:mod:`benchmark_world`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmark_world import World
from waiting import eventually

from jupyterhub_agentfarm.benchmark.client import BenchmarkClient
from jupyterhub_agentfarm.services import local

#: Looks at everything often, so that tests are short.
CONFIG = "c.Runner.poll_interval = 0.05\nc.Runner.patience = 0.5\nc.NodeServers.poll_interval = 0.05\n"


class BenchmarkService:
    """The service, with a folder of its own suites beside those that are shipped.

    Parameters
    ----------
    folder
        Holds everything that is written.
    suites
        Texts of suite files, by name.
    """

    def __init__(self, folder: Path, world: World, suites: dict[str, str]) -> None:
        self.folder, self.world = folder, world
        self.runtime = folder / "runtime"
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "suites").mkdir()
        for name, text in suites.items():
            (folder / "suites" / f"{name}.toml").write_text(text)
        local.announce(self.runtime, "agentfarm", world.url + "/services/agentfarm/")

    async def start(self) -> BenchmarkClient:
        """Start the process and return a client once it answers."""
        announced = self.runtime / "benchmark.json"
        announced.unlink(missing_ok=True)
        config = self.folder / "config.py"
        config.write_text(f"c.BenchmarkApp.suites_dirs = [{str(self.folder / 'suites')!r}]\n{CONFIG}")
        environment = {
            **os.environ,
            "AGENTFARM_RUNTIME_DIR": str(self.runtime),
            "AGENTFARM_DATA_DIR": str(self.folder / "data"),
            "AGENTFARM_PROXY_URL": self.world.url,
            "JUPYTERHUB_API_URL": self.world.url + "/hub/api",
            "JUPYTERHUB_API_TOKEN": "t",
            "JUPYTERHUB_SERVICE_NAME": "benchmark",
            "JUPYTERHUB_CLIENT_ID": "service-benchmark",
        }
        command = [sys.executable, "-m", "jupyterhub_agentfarm.benchmark", f"--config={config}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it is a matter of milliseconds
                command, env=environment, cwd=self.folder, stdout=log, stderr=log
            )
        await eventually(announced.exists, f"the service listens: {self.log()}", timeout=30)
        return BenchmarkClient(runtime_dir=str(self.runtime))

    def log(self) -> str:
        """Return what the service has logged."""
        return (self.folder / "log").read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)
