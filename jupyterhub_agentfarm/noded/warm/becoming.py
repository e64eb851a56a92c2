"""A forked process becomes a server: what executing a program does for a cold one is done here step by step.

::

    own session, output, descriptors ─▶ /proc shows the server's command ─▶ (its scope) ─▶ cgroups, limits, account, cwd
      ─▶ environment ─▶ what modules keep is set right ─▶ the zygote of its kernels ─▶ signals
      ─▶ the launcher, as `python -m` does

Each step that fails ends the process and is told through the status pipe, in the form of :mod:`..isolation.enter`.
What differs from a cold server and cannot be helped: the seed of `hash()` and the addresses of libraries are the same
in all servers of one zygote, and what kernels need is imported, too.
"""

from __future__ import annotations

import gc
import marshal
import os
import runpy
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyterhub_agentfarm import serving
from jupyterhub_agentfarm.kernels.inborn import Imported
from jupyterhub_agentfarm.kernels.shown import show

from ..isolation.enter import ENTERED, StepFailed, confine
from .bearing import bear
from .kernel import allow_looking, close_all_but
from .mending import forget_handlers, mend, user_site

#: What the status pipe says, beside `ENTERED` and a failed step.
UP, USER_SITE = b"up\n", b"user_site\n"
LAUNCHER = "jupyterhub_agentfarm.server"
SOCKET_VARIABLE = "AGENTFARM_SOCKET_FD"
#: How long noded may take to have the process put into its scope, in seconds.
SCOPE_SECONDS = 10.0
_PAUSE_SECONDS = 0.002
#: Exit status of a process that became no server, as of a program that could not be executed.
_NO_SERVER = 127


@dataclass(frozen=True)
class Given:
    """Descriptors that a forked process is given."""

    plan: int
    status: int
    log: int
    sock: int | None = None


def become(given: Given, coerced: Mapping[str, str], imported: Imported) -> None:
    """Be the server; return, or raise SystemExit, when it ended.

    Parameters
    ----------
    given
        The descriptors.
    coerced
        What Python puts into the environment when it starts.
    imported
        What was imported, for the server's kernels.
    """
    try:
        plan = _enter(given)
        os.write(given.status, ENTERED)
        _take_on(plan, coerced)
        if user_site() is not None:
            os.write(given.status, USER_SITE)
            os._exit(_NO_SERVER)
    except StepFailed as exc:
        os.write(given.status, f"{exc.step}\n{exc.code}\n{exc.path}".encode(errors="replace"))
        os._exit(_NO_SERVER)
    if bear(imported, without=SOCKET_VARIABLE):
        return
    forget_handlers()
    serving.forked, serving.listener = True, lambda: _tell(given.status)
    gc.enable()
    # The rest is what `python -m` does.
    runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)


def _tell(status: int) -> None:
    os.write(status, UP)
    os.close(status)


def _enter(given: Given) -> dict[str, Any]:
    """Leave everything behind that is noded's or the zygote's, and confine the process; return the plan."""
    os.setsid()
    with os.fdopen(given.plan, "rb") as file:
        plan: dict[str, Any] = marshal.load(file)  # noqa: S302 - noded wrote it a moment ago
    if given.sock is not None:
        plan["environment"][SOCKET_VARIABLE] = str(given.sock)
    _keep_open(given)
    try:
        show(plan["argv"], plan["environment"])
    except OSError as exc:
        raise StepFailed("title", exc.errno or 0, "PR_SET_MM_MAP") from exc
    if plan["scope"] is not None:
        _wait_for_scope(plan["scope"])
    confine(plan)
    if plan["ids"] is not None:
        # Whoever changes accounts without executing a program is closed to its own account otherwise.
        allow_looking()
    return plan


def _keep_open(given: Given) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((null, 0), (given.log, 1), (given.log, 2)):
        os.dup2(source, number)
    close_all_but({0, 1, 2, given.status, *(() if given.sock is None else (given.sock,))})


def _wait_for_scope(name: str) -> None:
    deadline = time.monotonic() + SCOPE_SECONDS
    while f"/{name}" not in Path("/proc/self/cgroup").read_text("utf-8", "replace"):
        if time.monotonic() > deadline:
            raise StepFailed("cgroup", 0, name)
        time.sleep(_PAUSE_SECONDS)


def _take_on(plan: Mapping[str, Any], coerced: Mapping[str, str]) -> None:
    """Have Python know the server's command and environment, and nothing of the zygote's."""
    os.environ.clear()
    try:
        os.environ.update({**coerced, **plan["environment"]})
    except ValueError as exc:
        raise StepFailed("environment", 0, "") from exc
    sys.argv[1:] = plan["argv"][3:]
    sys.orig_argv[:] = plan["argv"]
    mend()
