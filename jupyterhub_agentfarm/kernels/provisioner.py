"""The provisioner that jupyter_client starts kernels with, in servers of the farm.

jupyter_client chooses a kernel's ports by binding and freeing them, and tells them to the kernel in a file. Servers of
many users on one node do so at once, so that now and then another process takes one before the kernel binds it. A
forked kernel tells when that is done; one that ends before, while one of its ports is taken, is forked once more with
others.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo, LocalPortCache, port_names
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from .conditions import Cold
from .process import KernelProcess
from .warm import WarmKernels

#: Its name among the entry points `jupyter_client.kernel_provisioners`.
NAME = "agentfarm-warm"


class WarmProvisioner(LocalProvisioner):
    """Jupyter's own local provisioner, which forks a kernel where that gives the same kernel sooner."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel: warm, or else as Jupyter does."""
        kernels = WarmKernels.instance(config=self.config)
        try:
            process = await self._forked(kernels, cmd, kwargs)
        except Cold as reason:
            kernels.starts["cold", reason.reason] += 1
            self.log.info("Kernel %s is started cold: %s", self.kernel_id, reason)
            return await super().launch_kernel(cmd, **kwargs)
        kernels.starts["warm", ""] += 1
        self.process: Any = process
        self.pid = self.pgid = process.pid  # it leads a session of its own
        self.cwd = kwargs.get("cwd", Path.cwd())
        return self.connection_info

    async def _forked(self, kernels: WarmKernels, command: list[str], options: Mapping[str, Any]) -> KernelProcess:
        try:
            return await kernels.start(command, options)
        except Cold as reason:
            taken = await asyncio.to_thread(self._taken) if reason.reason == "failed" else []
            if not taken:
                raise
            self.log.info("Kernel %s gets other ports: %s was taken meanwhile", self.kernel_id, taken[0])
        await asyncio.to_thread(self._choose_other_ports)
        return await kernels.start(command, options)

    def _taken(self) -> list[int]:
        """Return those of the kernel's ports that somebody listens on."""
        manager = self.parent
        if manager is None or manager.transport != "tcp":
            return []
        return [port for name in port_names if not _free(manager.ip, port := getattr(manager, name))]

    def _choose_other_ports(self) -> None:
        """Choose ports anew, and tell them in the file that is there."""
        manager: Any = self.parent
        cache = LocalPortCache.instance()
        file = Path(manager.connection_file)
        told = json.loads(file.read_text())
        for name in port_names:
            cache.return_port(told[name])
            told[name] = cache.find_available_port(manager.ip)
            setattr(manager, name, told[name])
        file.write_text(json.dumps(told, indent=2))
        self.connection_info = manager.get_connection_info()


def _free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError:
            return False
    return True
