"""GPUs that do not exist, for demos and tests. Every one is marked ``simulated``.

What they report is real all the same: utilisation is the CPU use of the process tree of the server that holds the
GPU (in cores, at most 1), used memory is that tree's resident memory (at most the GPU's). Without a holder both are
0. Power and temperature are not simulated.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Mapping, Sequence

from jupyterhub_agentfarm.models import Gpu

from .procfs import Process

MEMORY_BYTES = 8 * 2**30
NAME = "Simulated GPU"


def simulated_uuids(count: int, state_dir: str) -> tuple[str, ...]:
    """Return the UUIDs: the same after every restart, others on every node."""
    digest = hashlib.sha256(f"{socket.gethostname()}{state_dir}".encode()).hexdigest()[:12]
    return tuple(f"GPU-sim-{digest}-{index}" for index in range(count))


class SimulatedGpus:
    """A number of GPUs that do not exist.

    Parameters
    ----------
    count
        How many.
    state_dir
        noded's state directory: several demo nodes on one machine differ in it.
    """

    def __init__(self, count: int, state_dir: str) -> None:
        self.uuids = simulated_uuids(count, state_dir)
        self._cpu_seconds: dict[tuple[int, int], float] = {}
        self._sampled_at = time.monotonic()

    def collect(self, holders: Mapping[str, Sequence[Process]]) -> tuple[Gpu, ...]:
        """Return the GPUs, measured by the processes that hold them.

        Parameters
        ----------
        holders
            The processes of the server that holds a GPU, by the GPU's UUID.
        """
        now = time.monotonic()
        elapsed, self._sampled_at = max(now - self._sampled_at, 1e-3), now
        before, self._cpu_seconds = self._cpu_seconds, {}
        return tuple(self._gpu(uuid, holders.get(uuid, ()), before, elapsed) for uuid in self.uuids)

    def _gpu(
        self, uuid: str, processes: Sequence[Process], before: Mapping[tuple[int, int], float], elapsed: float
    ) -> Gpu:
        busy = 0.0
        for process in processes:
            key = (process.pid, process.start_ticks)
            self._cpu_seconds[key] = process.cpu_seconds
            busy += max(0.0, process.cpu_seconds - before.get(key, process.cpu_seconds))
        return Gpu(
            uuid=uuid,
            name=NAME,
            memory_total_bytes=MEMORY_BYTES,
            memory_used_bytes=min(sum(process.rss_bytes for process in processes), MEMORY_BYTES),
            utilization_ratio=min(busy / elapsed, 1.0),
            simulated=True,
        )
