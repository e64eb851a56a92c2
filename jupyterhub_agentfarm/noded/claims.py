"""Which lease holds which GPU of this node: the last line of defence against two servers on one GPU."""

from __future__ import annotations

from collections.abc import Iterable

from jupyterhub_agentfarm.errors import GpuBusy, NodedError


class Claims:
    """GPUs and the leases that hold them. A claim ends when nothing of the server is left on the GPU."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}

    def holders(self, gpus: Iterable[str]) -> set[str]:
        """Return the leases that hold any of the GPUs."""
        return {self._holders[gpu] for gpu in gpus if gpu in self._holders}

    def take(self, lease: str, gpus: Iterable[str], known: set[str]) -> None:
        """Claim all of the GPUs, or none.

        Raises
        ------
        NodedError
            ``gpu_unknown``: the node has no such device.
        GpuBusy
            Another lease holds one.
        """
        wanted = list(gpus)
        for gpu in wanted:
            if gpu not in known:
                message = f"{gpu} is no GPU of this node; it has {', '.join(sorted(known)) or 'none'}"
                raise NodedError(message, "gpu_unknown", {"gpu": gpu})
            holder = self._holders.get(gpu, lease)
            if holder != lease:
                raise GpuBusy(f"{gpu} is held by the lease {holder}", "gpu_busy", {"gpu": gpu, "lease": holder})
        self.hold(lease, wanted)

    def hold(self, lease: str, gpus: Iterable[str]) -> None:
        """Claim without asking: for servers that were found running."""
        self._holders.update(dict.fromkeys(gpus, lease))

    def release(self, lease: str) -> None:
        """End all claims of a lease."""
        self._holders = {gpu: holder for gpu, holder in self._holders.items() if holder != lease}
