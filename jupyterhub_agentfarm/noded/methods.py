"""The methods of the protocol: one function for each, from typed parameters to a JSON-ready result."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jupyterhub_agentfarm import __version__
from jupyterhub_agentfarm.errors import NodedError, NotFoundError, ProtocolError
from jupyterhub_agentfarm.isolation import Enforcement
from jupyterhub_agentfarm.models import LaunchSpec, NodeFacts
from jupyterhub_agentfarm.protocol import (
    PROTOCOL_VERSION,
    Hello,
    LeaseParams,
    LogsParams,
    NotifyParams,
    OrphansParams,
    ProjectsParams,
    StopParams,
)
from jupyterhub_agentfarm.records import from_json, to_json

from . import procfs
from .connection import Connection
from .isolation.projects import survey
from .launcher import Launcher
from .orphans import Orphans
from .telemetry import Sampler

#: NVML may take a second to initialise; ``hello`` waits that long to name the driver, and no longer.
_FACTS_PATIENCE_SECONDS = 1.0


@dataclass(frozen=True)
class NoParams:
    """The method takes no parameters."""


class Methods:
    """Carries out requests.

    Parameters
    ----------
    launcher
        The servers.
    sampler
        The telemetry.
    orphans
        The processes that there is no record of.
    enforcement
        What keeps servers apart here.
    interval
        Seconds between two reports.
    first_sample_seconds
        How long ``telemetry`` waits for the first sample.
    """

    def __init__(
        self,
        launcher: Launcher,
        sampler: Sampler,
        orphans: Orphans,
        enforcement: Enforcement,
        interval: float,
        first_sample_seconds: float,
    ) -> None:
        self._launcher, self._sampler, self._interval = launcher, sampler, interval
        self._enforcement, self._strays = enforcement, orphans
        self._first_sample_seconds = first_sample_seconds
        self._table: Mapping[str, tuple[type, Callable[[Connection, Any], Awaitable[Any]]]] = {
            "hello": (Hello, self._hello),
            "subscribe": (NoParams, self._subscribe),
            "telemetry": (NoParams, self._telemetry),
            "servers": (NoParams, self._servers),
            "launch": (LaunchSpec, self._launch),
            "stop": (StopParams, self._stop),
            "logs": (LogsParams, self._logs),
            "notify": (NotifyParams, self._notify),
            "forget": (LeaseParams, self._forget),
            "orphans": (OrphansParams, self._orphans),
            "projects": (ProjectsParams, self._projects),
        }

    async def dispatch(self, connection: Connection, method: str, params: Any) -> Any:
        """Carry out `method`.

        Raises
        ------
        NodedError
            ``unknown_method``, or what the method answers.
        ProtocolError
            The peer did not say hello yet, or speaks another version.
        InvalidField
            The parameters have the wrong form.
        """
        if method not in self._table:
            known = ", ".join(self._table)
            raise NodedError(f"noded has no method {method[:40]!r}; it has {known}", "unknown_method")
        if not connection.greeted and method != "hello":
            raise ProtocolError("the first request must be hello")
        form, function = self._table[method]
        return await function(connection, from_json(form, params))

    async def _hello(self, connection: Connection, params: Hello) -> Any:
        if params.protocol != PROTOCOL_VERSION:
            ours = f"noded {__version__} speaks version {PROTOCOL_VERSION}"
            raise ProtocolError(f"{ours} of the protocol, not {params.protocol}: install the same version on both")
        await self._sampler.first(_FACTS_PATIENCE_SECONDS)
        connection.greeted = True
        return to_json(self._facts())

    def _facts(self) -> NodeFacts:
        return NodeFacts(
            protocol=PROTOCOL_VERSION,
            version=__version__,
            hostname=socket.gethostname(),
            boot_id=procfs.boot_id(),
            os=_os_name(),
            arch=platform.machine(),
            python=platform.python_version(),
            time=time.time(),
            pid=os.getpid(),
            driver_version=self._sampler.gpus.driver_version,
            enforcement=self._enforcement,
        )

    async def _subscribe(self, connection: Connection, _: NoParams) -> Any:
        connection.subscribed = True
        if self._sampler.latest is not None:
            connection.event("telemetry", to_json(self._sampler.latest))
        return {"telemetry_interval_seconds": self._interval}

    async def _telemetry(self, _: Connection, __: NoParams) -> Any:
        sample = await self._sampler.first(self._first_sample_seconds)
        if sample is None:
            raise NotFoundError("noded has no telemetry yet")
        return to_json(sample)

    async def _servers(self, _: Connection, __: NoParams) -> Any:
        return {"servers": to_json(self._launcher.statuses())}

    async def _launch(self, _: Connection, spec: LaunchSpec) -> Any:
        return to_json(await self._launcher.launch(spec))

    async def _stop(self, _: Connection, params: StopParams) -> Any:
        return to_json(await self._launcher.stop(params.lease, params.grace_seconds))

    async def _logs(self, _: Connection, params: LogsParams) -> Any:
        return {"text": await self._launcher.tail(params.lease, params.lines)}

    async def _notify(self, _: Connection, params: NotifyParams) -> Any:
        await self._launcher.notify(params.lease, params.notice)
        return {}

    async def _forget(self, _: Connection, params: LeaseParams) -> Any:
        self._launcher.forget(params.lease)
        return {}

    async def _orphans(self, _: Connection, params: OrphansParams) -> Any:
        return {"orphans": to_json(await self._strays.listed(params.held))}

    async def _projects(self, _: Connection, params: ProjectsParams) -> Any:
        return to_json(await asyncio.to_thread(survey, params.isolation))


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"
