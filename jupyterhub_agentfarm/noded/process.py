"""What a launch must look like, and the environment that a server gets."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.isolation import check_projects
from jupyterhub_agentfarm.models import LaunchSpec

from .directories import DIRECTORY_VARIABLE, PLACEHOLDER, check_files
from .isolation import projects
from .isolation.layers import Account
from .store import check_lease

#: Names the inherited listening socket to the server.
SOCKET_VARIABLE = "AGENTFARM_SOCKET_FD"

#: Programs of an account other than noded's, whose own may be those of root.
_PATH = "/usr/local/bin:/usr/bin:/bin"
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
    check_projects(spec.projects)
    port_range = spec.port_range
    if port_range is not None and not (len(port_range) == 2 and 0 < port_range[0] <= port_range[1] < 65536):
        raise InvalidField("port_range", "the first and the last port", port_range)
    for name, value in spec.environment.items():
        # The value may be a secret: it is not shown.
        if not _NAME.fullmatch(name) or "\0" in value:
            raise InvalidField(f"environment.{name}", "a name of letters, digits and _, and a value without NUL", "it")


def base_environment(command: tuple[str, ...], account: Account) -> dict[str, str]:
    """Return what a login of the account would have, and nothing that noded happens to have."""
    path = os.environ.get("PATH", os.defpath) if account.own else _PATH
    if Path(command[0]).is_absolute():
        path = f"{Path(command[0]).parent}:{path}"
    # noded's own runtime directory is closed to other accounts.
    names = ("LANG", "XDG_RUNTIME_DIR") if account.own else ("LANG",)
    return {name: os.environ[name] for name in names if name in os.environ} | {
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
        "PATH": path,
    }


def server_environment(
    spec: LaunchSpec, url: str, socket_fd: int | None, directory: Path, account: Account
) -> dict[str, str]:
    """Return the server's whole environment. Only the leased GPUs can be used in it: none when none was leased."""
    pinned = {
        "CUDA_VISIBLE_DEVICES": ",".join(spec.gpus),
        "NVIDIA_VISIBLE_DEVICES": ",".join(spec.gpus) or "void",
        "AGENTFARM_LEASE_ID": spec.lease,
        "AGENTFARM_EPOCH": str(spec.epoch),
        "JUPYTERHUB_SERVICE_URL": url,
        DIRECTORY_VARIABLE: str(directory),
    }
    if folders := projects.paths(spec):
        pinned[projects.PROJECTS_VARIABLE] = os.pathsep.join(map(str, folders))
    if socket_fd is not None:
        pinned[SOCKET_VARIABLE] = str(socket_fd)
    given = {
        name: value.replace(PLACEHOLDER, str(directory))
        for name, value in spec.environment.items()
        if name != SOCKET_VARIABLE
    }
    return base_environment(spec.command, account) | given | pinned
