"""The zygotes of a server, and what is asked of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from traitlets import Bool, List, Unicode
from traitlets.config import SingletonConfigurable

from jupyterhub_agentfarm.traitlets import Seconds

from .conditions import Cold, Program, check_environment, check_options, program
from .process import KernelProcess
from .running import RunningZygote, inborn, started
from .wire import Channel, Message

#: After a zygote that came to nothing the next is tried so much later, in seconds: each delays a kernel.
RETRY_SECONDS = 600.0
_PAUSE_SECONDS = 0.01
#: How long one that is not wanted may take to end, in seconds; it takes milliseconds.
_DECLINED_SECONDS = 1.0


class WarmKernels(SingletonConfigurable):
    """Starts kernels of a server by forking, where that is the same.

    Attributes
    ----------
    starts
        How many kernels were started: by ``("warm", "")``, or by ``("cold", reason)``.
    """

    enabled = Bool(
        True,
        help="Whether kernels are forked from a process that has imported what they need.",
    ).tag(config=True)
    preload = List(
        Unicode(),
        help="Libraries that kernels find imported already, as in ['numpy', 'pandas', 'torch']. Their import takes no "
        "time then, and their code is in memory once for all kernels of a server; the price is that memory, and the "
        "time of two imports, once per server that starts a kernel. A library that starts threads or touches a GPU "
        "when it is imported is left out, and the log says so.",
    ).tag(config=True)
    inborn = Bool(
        True,
        help="Whether kernels of a server that was started warm are forked from what the server was forked from, too: "
        "its first kernel is there in a tenth of a second. Such kernels find imported what servers import: until "
        "they are restarted a newer requests that their user installs is not used, and a file of that name in the "
        "working directory is not found. False: they are forked from a process that has imported what kernels need and "
        "nothing else, which is started with the first kernel.",
    ).tag(config=True)
    early = Bool(
        False,
        help="Whether the process that kernels are forked from is ready when the server is, not with its first kernel, "
        "also in a server that was started cold. The price is its memory, some 20 MiB, and in such a server half a "
        "second of a core, for servers that never have a kernel as well.",
    ).tag(config=True)
    idle_timeout = Seconds(
        1800,
        help="How long the process that kernels are forked from waits for the next while none lives, in seconds. "
        "Longer makes more kernels start at once; shorter gives its memory back sooner. 0: as long as the server.",
    ).tag(config=True)
    start_timeout = Seconds(
        10, help="How long a kernel waits for a fork, or for the process to be forked, before it is started cold."
    ).tag(config=True)
    bind_timeout = Seconds(
        3,
        help="How long a start waits for the kernel's sockets, in seconds; afterwards it counts as started, as a cold "
        "kernel does at once.",
    ).tag(config=True)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.starts: Counter[tuple[str, str]] = Counter()
        self._zygotes: dict[tuple[str, ...], RunningZygote] = {}
        #: When an interpreter whose zygote came to nothing is tried again.
        self._vain: dict[tuple[str, ...], float] = {}
        #: Those that end after their last kernel.
        self._old: list[RunningZygote] = []

    def close(self, seconds: float = 0.0) -> None:
        """Let the zygotes go, and wait for those that have no kernel. A second call does nothing."""
        for interpreter in list(self._zygotes):
            self._let_go(interpreter)
        self._vain.clear()
        self._old = [zygote for zygote in self._old if not zygote.gone(seconds)]

    def _let_go(self, interpreter: tuple[str, ...]) -> None:
        zygote = self._zygotes.pop(interpreter, None)
        if zygote is not None:
            zygote.close()
            self._old.append(zygote)

    def begin(self) -> None:
        """Have kernels of this process's own interpreter forked as soon as possible, where they may be."""
        wanted = Program((sys.executable,), ())
        if self.enabled and _possible() and wanted.interpreter not in self._zygotes:
            with contextlib.suppress(Cold):
                self._zygotes[wanted.interpreter] = self._new(wanted)

    def decline(self) -> None:
        """Let the zygote that this process was born with go: its kernels are not to be forked."""
        zygote = inborn()
        if zygote is not None:
            zygote.kill()
            zygote.gone(_DECLINED_SECONDS)

    async def start(self, command: Sequence[str], options: Mapping[str, Any]) -> KernelProcess:
        """Fork a kernel.

        Parameters
        ----------
        command, options
            As for :func:`jupyter_client.launcher.launch_kernel`.

        Raises
        ------
        Cold
            It has to be started cold.
        """
        if not self.enabled:
            raise Cold("disabled")
        if not _possible():
            raise Cold("unsupported", "this system has no pidfd")
        wanted = program(command)
        check_options(options)
        zygote = await self._zygote(wanted)
        environment = {**(options.get("env") or os.environ), "JPY_PARENT_PID": str(os.getpid())}
        try:
            check_environment(environment, zygote.environment, zygote.read_at_import - {"JPY_PARENT_PID"})
        except Cold:
            if zygote.inborn:  # an ordinary one has read fewer variables
                self._let_go(wanted.interpreter)
            raise
        request = {
            "command": list(command),
            "arguments": list(wanted.arguments),
            "environment": environment,
            "directory": str(options.get("cwd") or Path.cwd()),
        }
        return await self._forked(zygote, request, options)

    async def _zygote(self, wanted: Program) -> RunningZygote:
        """Return a zygote that takes requests; a new one is waited for, for that takes no longer than a cold start."""
        self._old = [old for old in self._old if not old.gone()]
        zygote = self._zygotes.get(wanted.interpreter)
        if zygote is not None:
            self._hear(zygote)
            if zygote.over:
                self._let_go(wanted.interpreter)
        if wanted.interpreter not in self._zygotes:
            if time.monotonic() < self._vain.get(wanted.interpreter, 0):
                raise Cold("ended", "no zygote came up a while ago")
            self._zygotes[wanted.interpreter] = self._new(wanted)
        zygote = self._zygotes[wanted.interpreter]
        await self._until_ready(zygote, wanted)
        return zygote

    async def _until_ready(self, zygote: RunningZygote, wanted: Program) -> None:
        while not (zygote.ready or zygote.over):
            if time.monotonic() > zygote.begun_at + self.start_timeout:
                raise Cold("starting", f"the zygote was not ready in {self.start_timeout:g} s")
            await asyncio.sleep(_PAUSE_SECONDS)
            self._hear(zygote)
        if not zygote.ready:
            if not zygote.inborn:
                self._vain[wanted.interpreter] = time.monotonic() + RETRY_SECONDS
            raise Cold("ended", "the zygote ended before it was ready")

    def _new(self, wanted: Program) -> RunningZygote:
        told = {"libraries": list(self.preload), "idle_seconds": self.idle_timeout}
        try:
            return self._awakened(wanted, told) or started(wanted.interpreter, told)
        except OSError as exc:
            raise Cold("ended", f"the zygote cannot be started: {exc}") from exc

    def _awakened(self, wanted: Program, told: Mapping[str, Any]) -> RunningZygote | None:
        zygote = inborn() if self.inborn and wanted.interpreter == (sys.executable,) else None
        if zygote is not None and not zygote.awaken(told):
            self._old.append(zygote)
            return None
        return zygote

    def _hear(self, zygote: RunningZygote) -> None:
        for message in zygote.news():
            self._log(zygote, message)

    def _log(self, zygote: RunningZygote, message: Message) -> None:
        if "left_out" in message:
            self.log.warning("Kernels do not find %s imported: %s", message["left_out"], message["why"])
        elif "unfit" in message:
            self.log.warning("Kernels cannot be forked here: after the imports, %s", message["unfit"])
        elif "ready" in message:
            self.log.info("Kernels are forked from process %d", zygote.pid)

    async def _forked(
        self, zygote: RunningZygote, request: Mapping[str, Any], options: Mapping[str, Any]
    ) -> KernelProcess:
        with _streams(options) as streams:
            channel = zygote.fork(streams)
        if channel is None:
            raise Cold("ended", "the zygote is gone")
        try:
            return await self._born(channel, request)
        except BaseException as exc:
            channel.close()
            if isinstance(exc, Cold) and exc.reason in ("packages", "ended", "starting"):
                zygote.close()
            raise

    async def _born(self, channel: Channel, request: Mapping[str, Any]) -> KernelProcess:
        try:
            async with asyncio.timeout(self.start_timeout):
                told = await channel.wait()
        except TimeoutError as exc:
            raise Cold("starting", f"the zygote did not fork in {self.start_timeout:g} s") from exc
        if told is None:
            raise Cold("ended", "the zygote ended")
        if "refused" in told:
            raise Cold(told["refused"], "what is installed has changed")
        process = KernelProcess(told["pid"], channel.descriptors[0], channel, request["command"])
        await channel.send(request)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.bind_timeout):
                while (told := await channel.wait()) is not None and "bound" not in told:
                    process.take(told)
                    if process.returncode is not None:
                        raise Cold(
                            "failed", f"the kernel ended with {process.returncode} before its sockets were bound"
                        )
        return process


def _possible() -> bool:
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


@contextlib.contextmanager
def _streams(options: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    """Give the descriptors of the standard streams: as jupyter_client, an input that is at its end, and our outputs."""
    reading, writing = os.pipe()
    os.close(writing)
    try:
        stdin, stdout, stderr = (options.get(name) for name in ("stdin", "stdout", "stderr"))
        yield (
            reading if stdin is None else _descriptor(stdin),
            1 if stdout is None else _descriptor(stdout),
            2 if stderr is None else _descriptor(stderr),
        )
    finally:
        os.close(reading)


def _descriptor(stream: Any) -> int:
    return stream if isinstance(stream, int) else int(stream.fileno())
