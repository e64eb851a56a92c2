"""The provisioner that jupyter_client starts kernels with, in servers of the farm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from .conditions import Cold
from .warm import WarmKernels

#: Its name among the entry points `jupyter_client.kernel_provisioners`.
NAME = "agentfarm-warm"


class WarmProvisioner(LocalProvisioner):
    """Jupyter's own local provisioner, which forks a kernel where that gives the same kernel sooner."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel: warm, or else as Jupyter does."""
        kernels = WarmKernels.instance(config=self.config)
        try:
            process = await kernels.start(cmd, kwargs)
        except Cold as reason:
            kernels.starts["cold", reason.reason] += 1
            self.log.info("Kernel %s is started cold: %s", self.kernel_id, reason)
            return await super().launch_kernel(cmd, **kwargs)
        kernels.starts["warm", ""] += 1
        self.process: Any = process
        self.pid = self.pgid = process.pid  # it leads a session of its own
        self.cwd = kwargs.get("cwd", Path.cwd())
        return self.connection_info
