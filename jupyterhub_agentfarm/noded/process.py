"""How a server's process is started: its environment, its working directory, its file descriptors."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.models import LaunchSpec

from .directories import DIRECTORY_VARIABLE, PLACEHOLDER, check_files
from .listening import failed
from .store import check_lease

#: Names the inherited listening socket to the server.
SOCKET_VARIABLE = "AGENTFARM_SOCKET_FD"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_launch(spec: LaunchSpec) -> None:
    """Refuse a launch whose form is wrong, before anything was done.

    Raises
    ------
    InvalidField
        A field cannot be used.
    """
    check_lease(spec.lease)
    if not spec.command or not all(spec.command[:1]) or any("\0" in part for part in spec.command):
        raise InvalidField("command", "a program and its arguments", spec.command)
    if len(set(spec.gpus)) != len(spec.gpus) or any("," in gpu or not gpu for gpu in spec.gpus):
        raise InvalidField("gpus", "different UUIDs", spec.gpus)
    if not (spec.base_url.startswith("/") and spec.base_url.endswith("/")):
        raise InvalidField("base_url", "a path that starts and ends with /", spec.base_url)
    check_files(spec.files)
    port_range = spec.port_range
    if port_range is not None and not (len(port_range) == 2 and 0 < port_range[0] <= port_range[1] < 65536):
        raise InvalidField("port_range", "the first and the last port", port_range)
    for name, value in spec.environment.items():
        # The value may be a secret: it is not shown.
        if not _NAME.fullmatch(name) or "\0" in value:
            raise InvalidField(f"environment.{name}", "a name of letters, digits and _, and a value without NUL", "it")


def base_environment(command: tuple[str, ...]) -> dict[str, str]:
    """Return what a login of this account would have, and nothing that noded happens to have."""
    account = pwd.getpwuid(os.getuid())
    path = os.environ.get("PATH", os.defpath)
    if Path(command[0]).is_absolute():
        path = f"{Path(command[0]).parent}:{path}"
    kept = {name: os.environ[name] for name in ("LANG", "XDG_RUNTIME_DIR") if name in os.environ}
    return kept | {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
        "PATH": path,
    }


def server_environment(spec: LaunchSpec, url: str, socket_fd: int | None, directory: Path) -> dict[str, str]:
    """Return the server's whole environment. Only the leased GPUs can be used in it: none when none was leased."""
    pinned = {
        "CUDA_VISIBLE_DEVICES": ",".join(spec.gpus),
        "NVIDIA_VISIBLE_DEVICES": ",".join(spec.gpus) or "void",
        "AGENTFARM_LEASE_ID": spec.lease,
        "AGENTFARM_EPOCH": str(spec.epoch),
        "JUPYTERHUB_SERVICE_URL": url,
        DIRECTORY_VARIABLE: str(directory),
    }
    if socket_fd is not None:
        pinned[SOCKET_VARIABLE] = str(socket_fd)
    given = {
        name: value.replace(PLACEHOLDER, str(directory))
        for name, value in spec.environment.items()
        if name != SOCKET_VARIABLE
    }
    return base_environment(spec.command) | given | pinned


def start(
    spec: LaunchSpec, environment: Mapping[str, str], log_fd: int, socket_fd: int | None
) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own and return once its program runs.

    Raises
    ------
    LaunchFailed
        The program or the working directory cannot be used.
    """
    home = environment["HOME"]
    cwd = spec.cwd or "~"
    if cwd == "~" or cwd.startswith("~/"):
        cwd = home + cwd[1:]
    if not Path(cwd).is_dir():
        raise failed(f"the working directory {cwd} does not exist on this node")
    try:
        return subprocess.Popen(
            list(spec.command),
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=() if socket_fd is None else (socket_fd,),
            start_new_session=True,
        )
    except OSError as exc:
        raise failed(f"cannot execute {spec.command[0]}: {exc.strerror}") from exc
