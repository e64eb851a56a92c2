"""``agentfarm demo``: from nothing to a farm of three nodes, a benchmark of all of them, and a place to log in.

It needs no root, no sshd and no GPU: the nodes are an embedded SSH server on 127.0.0.11-13, their GPUs are simulated
and marked so. Everything it starts ends with it.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from traitlets import Bool, Unicode

from ..errors import ConflictError, FarmUnavailable, HubApiError, RunFailed
from ..terminal.output import Output
from ..terminal.parsing import Parsed
from ..terminal.progress import Bars, bars
from .layout import NODES, REAL_NODES, Layout
from .processes import sweep

if TYPE_CHECKING:
    from .farm import DemoFarm

_WATCH_SECONDS = 1.0


class DemoApp(Parsed):
    """Start a whole farm on this machine and benchmark it."""

    name = "demo"
    command = "agentfarm demo"
    description = (
        "Start a Hub, its services and three nodes with simulated GPUs on this machine, register an agent, benchmark "
        "all nodes at once, and stay up until Ctrl-C. No root, no sshd and no GPU are needed. Each demo begins with an "
        "empty farm; notebooks of its users are kept. With --real-gpus there is one node, with this machine's own GPUs."
    )

    directory = Unicode("demo", help="Directory for what the demo writes; an empty or a new one.").tag(config=True)
    once = Bool(False, help="End after the report.").tag(config=True)
    suite = Unicode("smoke", help="Suite that is run on all nodes at once.").tag(config=True)
    real_gpus = Bool(
        False, help="One node, with the GPUs that this machine has, instead of three with simulated ones."
    ).tag(config=True)

    _stopping = False
    aliases = {"dir": "DemoApp.directory", "suite": "DemoApp.suite"}
    flags = {
        "once": ({"DemoApp": {"once": True}}, "End after the report, with status 0 when all went well."),
        "real-gpus": (
            {"DemoApp": {"real_gpus": True}},
            "One node, with the GPUs that this machine has, instead of three with simulated ones.",
        ),
    }

    def start(self) -> None:
        """Run the demo to its end.

        Raises
        ------
        AgentFarmError
            It failed; everything was ended.
        KeyboardInterrupt
            It was ended before it was up.
        """
        try:
            asyncio.run(self._interruptible())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    async def _interruptible(self) -> None:
        """Run the demo as a task that the first signal cancels; later ones find the clean-up under way."""
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(self._demo())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt, task)
        await task

    def _interrupt(self, task: asyncio.Task[None]) -> None:
        if not self._stopping:
            self._stopping = True
            task.cancel()

    async def _demo(self) -> None:
        from .farm import DemoFailed, DemoFarm  # here, so that --help is quick

        output = Output()
        layout = Layout(Path(self.directory), REAL_NODES if self.real_gpus else NODES)
        layout.claim()
        left = await sweep(layout)
        if left:
            output.note(f"Ended {left} processes that an earlier demo in {layout.root} had left behind.")
        layout.renew()
        farm = DemoFarm(layout, secrets.token_urlsafe(9))
        try:
            await self._run(farm, output)
        except DemoFailed as exc:
            for line in exc.log_tail:
                output.note(f"  | {line}")
            raise
        finally:
            self._stopping = True
            output.note("Stopping the demo …")
            await farm.stop()
            layout.keep_logs()
            layout.release()

    async def _run(self, farm: DemoFarm, output: Output) -> None:
        """Bring the farm up, register an agent, measure the farm, and stay up unless `once`."""
        from .agent import register_agent

        with bars(output) as progress:
            await farm.start(progress)
            if self.real_gpus:
                progress.say(await farm.gpus())
            await register_agent(farm.layout.runtime, farm.layout.agent_token, progress)
            progress.say(self._where(farm))
            try:
                await self._measured(farm, progress)
            except (RunFailed, FarmUnavailable, ConflictError, HubApiError) as exc:
                if self.once:
                    raise
                progress.say(f"The benchmark failed: {exc.message}")
        if farm.layout.report.exists():
            output.line(f"Report: {farm.layout.report}")
        if not self.once:
            await self._stay(farm, output)

    async def _measured(self, farm: DemoFarm, progress: Bars) -> None:
        """Run the suite, for as long as the farm's parts live."""
        from .measure import measure

        measuring = asyncio.ensure_future(measure(farm.layout.runtime, self.suite, farm.layout.report, progress))
        try:
            while not measuring.done():
                farm.check()
                await asyncio.wait({measuring}, timeout=_WATCH_SECONDS)
            await measuring
        finally:
            measuring.cancel()
            await asyncio.gather(measuring, return_exceptions=True)

    async def _stay(self, farm: DemoFarm, output: Output) -> None:
        """Stay up until a signal."""
        output.line(self._where(farm))
        output.line("The farm stays up; Ctrl-C ends it and everything in it.")
        with suppress(asyncio.CancelledError):
            while True:
                farm.check()
                await asyncio.sleep(_WATCH_SECONDS)

    @staticmethod
    def _where(farm: DemoFarm) -> str:
        from .agent import AGENT

        return (
            f"Log in at {farm.url} as admin (or any other name) with the password {farm.password}\n"
            f"  nodes and leases: {farm.url}services/agentfarm/\n"
            f"  benchmarks:       {farm.url}services/benchmark/\n"
            f"  agents and tasks: {farm.url}services/agents/\n"
            f"  an agent:         {AGENT}, whose token is in {farm.layout.agent_token}\n"
            f"                    MCP at {farm.url}services/agents/mcp with `Authorization: Bearer` and that token\n"
            f"  command line:     agentfarm nodes list --runtime-dir {farm.layout.runtime}"
        )
