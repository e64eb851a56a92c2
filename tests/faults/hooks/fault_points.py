"""Named points of a spawn, at which a process of the farm can be held or killed. No code of the package knows of it.

The farm's processes (Hub, controller, noded) are started with this folder in PYTHONPATH, so that `sitecustomize`
installs an import hook: when one of the modules in `POINTS` has been imported, the named functions are wrapped. A
wrapped function looks for a file ``<points>/<point>@<owner>`` (`points` is $FAULTS_POINTS, `owner` the user
whose server it is); there is none unless a test put it there, and then its text says what to do, once:

``hold``
    Rename it to ``….reached`` and go on when ``….go`` is there. The rest of the process goes on meanwhile.
``kill``
    Rename it to ``….reached`` and end this process by SIGKILL.

A cancellation that meets a held point is delivered at the next await of the real code: a point adds no place at which
code can be cancelled. `start` of the spawner also writes how long the Hub took from a DELETE to the end of `start`, to
``<points>/cancelled@<owner>``, and takes its start_timeout from ``<points>/start_timeout@<owner>`` where that is.

The clock: in a process whose $FAULTS_CLOCK names a file, `time.time()` is off by the seconds in that file. The
kernel's time namespaces do not cover the wall clock; this is what a step of NTP looks like to the process.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DIRECTORY = Path(os.environ.get("FAULTS_POINTS", "/nonexistent"))
HELD_SECONDS = 120.0

Owner = Callable[..., str]


def _spawner(self: Any, *_args: Any) -> str:
    return str(self.user.name)


def _start(self: Any, *_args: Any) -> str:
    return str(self._spawner.user.name)


def _request(_self: Any, request: Any, *_args: Any) -> str:
    return str(request.owner)


def _order(_self: Any, _lease: Any, order: Any, *_args: Any) -> str:
    return str(order.base_url).split("/")[2]


def _first(spec: Any, *_args: Any) -> str:
    return str(spec.base_url).split("/")[2]


def _spec(_self: Any, spec: Any, *_args: Any) -> str:
    return _first(spec)


def _user(_self: Any, user: Any, *_args: Any) -> str:
    return str(user.name)


#: Module: (function, who its owner is, point before it, point after it).
POINTS: dict[str, list[tuple[str, Owner, str | None, str | None]]] = {
    "jupyterhub_agentfarm.spawner.watch": [
        ("LeaseWatch.place", _request, "hub.before_lease", "hub.lease_granted"),
    ],
    "jupyterhub_agentfarm.spawner.starting": [
        ("Start._granted", _start, None, "hub.granted"),
        ("Start._answered", _start, "hub.state_committed", "hub.server_answering"),
    ],
    "jupyterhub_agentfarm.spawner.spawner": [
        ("AgentFarmSpawner.placed", _spawner, None, "hub.lease_committed"),
        ("AgentFarmSpawner.start", _spawner, None, "hub.started"),
    ],
    "jupyterhub_agentfarm.controller.client": [
        ("FarmClient.launch", _order, "hub.launch_sending", "hub.launch_answered"),
    ],
    "jupyterhub.proxy": [
        ("Proxy.add_user", _user, "hub.route_adding", "hub.route_added"),
    ],
    "jupyterhub_agentfarm.controller.farm": [
        ("Farm.launch", _order, "controller.launch_received", "controller.running_committed"),
    ],
    "jupyterhub_agentfarm.transport.noded_client": [
        ("NodedClient.launch", _spec, "controller.launch_sending", "controller.launch_answered"),
    ],
    "jupyterhub_agentfarm.noded.launcher": [
        ("Launcher.launch", _spec, "noded.launch_received", "noded.launch_answered"),
    ],
    "jupyterhub_agentfarm.noded.starting": [
        ("start", _first, "noded.record_written", "noded.process_forked"),
        ("Starter.start", _spec, None, "noded.process_recorded"),
    ],
    "jupyterhub_agentfarm.noded.warm.zygotes": [
        ("fork", _first, "noded.record_written", "noded.process_forked"),
    ],
}


# ---- at a point ----------------------------------------------------------------------------------------------------


def _taken(point: str | None, owner: str) -> Path | None:
    """Return the mark of the point that this process has just reached first, to be held there; None: go on."""
    if point is None:
        return None
    armed = DIRECTORY / f"{point}@{owner}"
    try:
        action = armed.read_text()
        armed.rename(f"{armed}.reached")
    except OSError:
        return None
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return Path(f"{armed}.go")


async def _reach(point: str | None, owner: str) -> None:
    go = _taken(point, owner)
    deadline = time.monotonic() + HELD_SECONDS
    cancelled = False
    while go is not None and not cancelled and not go.exists() and time.monotonic() < deadline:
        try:
            await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled and (task := asyncio.current_task()) is not None:
        task.uncancel()
        task.cancel()


def _reach_blocking(point: str | None, owner: str) -> None:
    go = _taken(point, owner)
    deadline = time.monotonic() + HELD_SECONDS
    while go is not None and not go.exists() and time.monotonic() < deadline:
        time.sleep(0.005)


def _wrapped(function: Any, owner_of: Owner, before: str | None, after: str | None) -> Any:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def passing(*args: Any, **kwargs: Any) -> Any:
            owner = owner_of(*args)
            await _reach(before, owner)
            result = await function(*args, **kwargs)
            await _reach(after, owner)
            return result

    else:

        @functools.wraps(function)
        def passing(*args: Any, **kwargs: Any) -> Any:
            owner = owner_of(*args)
            _reach_blocking(before, owner)
            result = function(*args, **kwargs)
            _reach_blocking(after, owner)
            return result

    return passing


# ---- cancelled and limited starts ----------------------------------------------------------------------------------

_deleted_at: dict[str, float] = {}


def _limited(start: Any) -> Any:
    """Let the test choose the start_timeout; note when a start that was cancelled has ended."""

    async def timed(spawner: Any, started: float) -> Any:
        owner = spawner.user.name
        try:
            return await start(spawner)
        except BaseException as exc:
            begun = _deleted_at.pop(owner, started + spawner.start_timeout)
            written = DIRECTORY / f"cancelled@{owner}.new"
            written.write_text(f"{type(exc).__name__} {time.monotonic() - begun:.4f}")
            written.rename(DIRECTORY / f"cancelled@{owner}")  # whole, whenever it is read
            raise

    @functools.wraps(start)
    def limited(spawner: Any) -> Any:
        try:
            spawner.start_timeout = int((DIRECTORY / f"start_timeout@{spawner.user.name}").read_text())
        except OSError:
            spawner.start_timeout = spawner._start_timeout_default()
        return timed(spawner, time.monotonic())

    return limited


def _noting_delete(delete: Any) -> Any:
    @functools.wraps(delete)
    async def noting(handler: Any, user_name: str, *args: Any, **kwargs: Any) -> Any:
        _deleted_at[user_name] = time.monotonic()
        return await delete(handler, user_name, *args, **kwargs)

    return noting


# ---- installation --------------------------------------------------------------------------------------------------


def _replace(module: Any, path: str, wrap: Callable[[Any], Any]) -> None:
    *outer, name = path.split(".")
    holder = functools.reduce(getattr, outer, module)
    setattr(holder, name, wrap(getattr(holder, name)))


def _apply(module: Any) -> None:
    for path, owner_of, before, after in POINTS.get(module.__name__, ()):
        _replace(module, path, lambda f, o=owner_of, b=before, a=after: _wrapped(f, o, b, a))
    if module.__name__ == "jupyterhub_agentfarm.spawner.spawner":
        _replace(module, "AgentFarmSpawner.start", _limited)
    if module.__name__ == "jupyterhub.apihandlers.users":
        _replace(module, "UserServerAPIHandler.delete", _noting_delete)


class _Finder(importlib.abc.MetaPathFinder):
    """Has the modules of `POINTS` changed right after they were executed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return the spec that the other finders have, with a loader that applies the change."""
        if name not in POINTS and name != "jupyterhub.apihandlers.users":
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                loader: Any = spec.loader
                execute = loader.exec_module

                def exec_module(module: Any, execute: Any = execute) -> None:
                    execute(module)
                    _apply(module)

                loader.exec_module = exec_module
                return spec
        return None


def _set_clock(path: Path) -> None:
    """Have `time.time` be off by what the file says."""
    real, known = time.time, [0.0, 0]

    def shifted() -> float:
        try:
            changed = path.stat().st_mtime_ns
            if changed != known[1]:
                known[0], known[1] = float(path.read_text() or 0), changed
        except (OSError, ValueError):
            known[0], known[1] = 0.0, 0
        return real() + known[0]

    time.time = shifted


def install() -> None:
    """Have the points set in this process."""
    sys.meta_path.insert(0, _Finder())
    if clock := os.environ.get("FAULTS_CLOCK"):
        _set_clock(Path(clock))
