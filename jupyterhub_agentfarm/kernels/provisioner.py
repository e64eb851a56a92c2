"""The provisioner that jupyter_client starts kernels with, in servers of the farm.

A kernel's ports are held for it as long as it is there (:mod:`.ports`), restarts included, so that nobody gets one by
chance. Somebody may still ask for one by its number: a forked kernel that ends before it has bound them, while one of
them is taken, is forked once more with others. That is done at its first start only: later, clients know its ports.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo, port_names
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from .conditions import Cold, is_ipykernel
from .ports import HeldPorts, is_taken
from .process import KernelProcess
from .warm import WarmKernels

#: Its name among the entry points `jupyter_client.kernel_provisioners`.
NAME = "agentfarm-warm"


class WarmProvisioner(LocalProvisioner):
    """Jupyter's local provisioner, which holds ports, and forks a kernel where that gives the same kernel sooner."""

    _held: HeldPorts | None = None
    _launched = False

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the kernel's ports before its first start, unless they are not for this process to choose."""
        manager: Any = self.parent
        if not self.ports_cached and manager is not None and manager.cache_ports and manager.transport == "tcp":
            self._hold(manager)
            self.ports_cached = True  # this is how jupyter_client knows that they are chosen
        try:
            return await super().pre_launch(**kwargs)
        except BaseException:
            self._release()
            raise

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel: warm, or else as Jupyter does."""
        try:
            connection_info = await self._launch(cmd, kwargs)
        except BaseException:
            self._release()
            raise
        self._launched = True
        return connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """Let the ports go, unless the kernel is about to come back."""
        if not restart:
            self._release()
        await super().cleanup(restart)

    def _hold(self, manager: Any) -> None:
        self._release()
        self._held = HeldPorts(manager.ip, len(port_names))
        for name, port in zip(port_names, self._held.numbers, strict=True):
            setattr(manager, name, port)

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()

    async def _launch(self, command: list[str], options: dict[str, Any]) -> KernelConnectionInfo:
        kernels = WarmKernels.instance(config=self.config)
        try:
            process = await self._forked(kernels, command, options)
        except Cold as reason:
            kernels.starts["cold", reason.reason] += 1
            self.log.info("Kernel %s is started cold: %s", self.kernel_id, reason)
            if not is_ipykernel(command):
                self._release()  # what it binds its ports with may not be able to share them
            return await super().launch_kernel(command, **options)
        kernels.starts["warm", ""] += 1
        self.process: Any = process
        self.pid = self.pgid = process.pid  # it leads a session of its own
        self.cwd = options.get("cwd", Path.cwd())
        return self.connection_info

    async def _forked(self, kernels: WarmKernels, command: list[str], options: Mapping[str, Any]) -> KernelProcess:
        try:
            return await kernels.start(command, options)
        except Cold as reason:
            taken = [] if self._launched or reason.reason != "failed" else self._taken()
            if not taken:
                raise
            self.log.info("Kernel %s gets other ports: %s was taken meanwhile", self.kernel_id, taken[0])
        await asyncio.to_thread(self._choose_other_ports)
        return await kernels.start(command, options)

    def _taken(self) -> list[int]:
        """Return those of the kernel's ports that somebody has, where other ones can be chosen."""
        if self._held is None:
            return []
        return [port for port in self._held.numbers if is_taken(self.connection_info["ip"], port)]

    def _choose_other_ports(self) -> None:
        """Choose ports anew, and tell them in the file that is there."""
        manager: Any = self.parent
        self._hold(manager)
        file = Path(manager.connection_file)
        told = json.loads(file.read_text())
        file.write_text(json.dumps(told | {name: getattr(manager, name) for name in port_names}, indent=2))
        self.connection_info = manager.get_connection_info()
