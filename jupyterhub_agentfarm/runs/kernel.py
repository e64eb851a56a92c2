"""The kernel of one run: started, interrupted, and ended with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from .channels import CountedClient
from .models import RunEnded

#: Seconds that a new kernel has to answer.
STARTUP_SECONDS = 60
#: Seconds for an orderly shutdown before the kernel is killed.
SHUTDOWN_SECONDS = 15
#: Pause between two looks whether a kernel has ended: most take less than what jupyter_client waits before the second.
_LOOK_SECONDS = 0.02


class Kernel:
    """A kernel of its own, which nobody else in the server knows.

    No restarter watches it, so a kernel that has died stays dead and is seen as dead. All methods belong to one loop.
    """

    def __init__(self, name: str, specs: KernelSpecManager) -> None:
        self.name = name
        self.manager = AsyncKernelManager(kernel_name=name, kernel_spec_manager=specs, parent=specs)
        self.client: CountedClient | None = None
        #: What the kernel says about itself; empty before it has started.
        self.info: Mapping[str, Any] = {}
        self._pid: int | None = None

    async def start(self, working_directory: Path, environment: Mapping[str, str]) -> CountedClient:
        """Start the kernel and return its client when it answers.

        Raises
        ------
        RunEnded
            There is no such kernel, its program cannot be started, or it died or did not answer.
        """
        try:
            await self._launch(working_directory, environment)
        except NoSuchKernel as exc:
            raise RunEnded("kernel_not_found", f"There is no kernel named {self.name} on this server.") from exc
        except OSError as exc:
            raise RunEnded("kernel_not_found", f"The kernel {self.name} could not be started: {exc}.") from exc
        self.client = client = self._connect()
        client.start_channels()
        try:
            self.info = await client.until_ready(STARTUP_SECONDS)
        except RuntimeError as exc:
            raise RunEnded("kernel_died", f"The kernel {self.name} did not come up: {exc}.") from exc
        client.allow_stdin = False
        return client

    async def _launch(self, working_directory: Path, environment: Mapping[str, str]) -> None:
        # Runs at the same time would wait for each other's lock on IPython's history database.
        arguments = ["--HistoryManager.hist_file=:memory:"] if self.manager.ipykernel else []
        await self.manager.start_kernel(
            extra_arguments=arguments, cwd=str(working_directory), env={**os.environ, **environment}
        )
        self._pid = getattr(self.manager.provisioner, "pid", None)

    def _connect(self) -> CountedClient:
        client = CountedClient(session=self.manager.session, parent=self.manager)
        client.load_connection_info(self.manager.get_connection_info(session=False))
        client.connection_file = self.manager.connection_file
        return client

    async def interrupt(self) -> None:
        """Ask the kernel to stop what it executes."""
        with contextlib.suppress(RuntimeError):
            await self.manager.interrupt_kernel()

    async def exit_status(self) -> int | None:
        """Return the status that the kernel ended with, negative for a signal, or None when it lives."""
        return None if self.manager.provisioner is None else await self.manager.provisioner.poll()

    async def close(self, now: bool) -> None:
        """End the kernel and every process of its session; kill at once when `now`. May be called again."""
        try:
            if await self.manager.is_alive():
                await asyncio.wait_for(self._shut_down(now), SHUTDOWN_SECONDS)
        except (TimeoutError, RuntimeError):
            pass  # what is left is killed below
        finally:
            if self._pid is not None:
                kill_session(self._pid)
            if self.client is not None:
                self.client.stop_channels()
            await self._reap()

    async def _shut_down(self, now: bool) -> None:
        if now:
            await self.manager.shutdown_kernel(now=True)
        else:
            await self.manager.request_shutdown()
            await self.manager.finish_shutdown(pollinterval=_LOOK_SECONDS)

    async def _reap(self) -> None:
        if self.manager.provisioner is not None and self.manager.has_kernel:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.manager.provisioner.wait(), SHUTDOWN_SECONDS)
        await self.manager.cleanup_resources()


def kill_session(leader: int) -> None:
    """Kill every process in the session that the process `leader` has begun, whether or not it lives itself."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
