"""``python -m jupyterhub_agentfarm.server.versions``: what servers on this node start from, as one line of JSON.

The controller runs it with a node's `server_python` for ``agentfarm doctor``. Nothing is imported that a node may
lack: versions are read from the installed packages' metadata.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from ..records import to_json


@dataclass(frozen=True)
class ServerEnvironment:
    """The versions in the Python environment that servers start from; None: not installed."""

    python: str
    agentfarm: str | None
    jupyterhub: str | None
    jupyter_server: str | None
    jupyterlab: str | None
    nbclient: str | None
    ipykernel: str | None
    #: Whether the extension that executes notebooks can be found.
    runs: bool


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment() -> ServerEnvironment:
    """Return the versions in this process's environment."""
    return ServerEnvironment(
        python=platform.python_version(),
        agentfarm=installed("jupyterhub-agentfarm"),
        jupyterhub=installed("jupyterhub"),
        jupyter_server=installed("jupyter_server"),
        jupyterlab=installed("jupyterlab"),
        nbclient=installed("nbclient"),
        ipykernel=installed("ipykernel"),
        runs=find_spec("jupyterhub_agentfarm.runs.handlers") is not None,
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(to_json(environment())) + "\n")
