"""The doctor's check of the Python environment that a node's servers start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import __version__
from ..errors import AgentFarmError, RemoteCommandFailed
from ..server.versions import ServerEnvironment
from .findings import Finding, fail, ok, warn

#: What jupyterhub-agentfarm[server] brings, as fields of `ServerEnvironment`.
_NEEDED = ("jupyterhub", "jupyter_server", "jupyterlab", "nbclient", "ipykernel")


def check_environment(
    node: Mapping[str, Any], found: ServerEnvironment | AgentFarmError, hub_version: str | None
) -> Finding:
    """Return the finding about a node's server environment.

    Parameters
    ----------
    node
        As `GET nodes/{name}` describes it.
    found
        What the node answered, or why there is no answer.
    hub_version
        Version of the Hub's JupyterHub; None: it is not known here.
    """
    check, python = f"node {node['name']}: servers", _server_python(node)
    mend = f"run `{python} -m pip install 'jupyterhub-agentfarm[server]=={__version__}'` on the node"
    if isinstance(found, AgentFarmError):
        return _unanswered(check, found, f"server_python ({python}) on node {node['name']}", mend)
    missing = [name for name in _NEEDED if getattr(found, name) is None]
    if missing or not found.runs:
        return fail(check, f"{python} lacks {', '.join(missing) or 'the extension jupyterhub_agentfarm.runs'}", mend)
    if hub_version is not None and _major(found.jupyterhub) != _major(hub_version):
        message = f"JupyterHub is {found.jupyterhub} there and {hub_version} here: servers may not log in"
        major = _major(hub_version)
        return fail(check, message, f"run `{python} -m pip install 'jupyterhub=={major}.*'` on the node")
    if found.agentfarm != __version__:
        return warn(check, f"jupyterhub-agentfarm is {found.agentfarm} there and {__version__} here", mend)
    versions = f"JupyterHub {found.jupyterhub}, Jupyter Server {found.jupyter_server}"
    return ok(check, f"{versions} on Python {found.python}")


def _unanswered(check: str, exc: AgentFarmError, where: str, mend: str) -> Finding:
    if isinstance(exc, RemoteCommandFailed) and exc.exit_status in {126, 127}:
        return fail(check, f"{where} cannot be run", "set server_python to a Python of the node")
    if isinstance(exc, RemoteCommandFailed) and "No module named" in exc.stderr:
        return fail(check, f"{where} has no jupyterhub-agentfarm[server] of this version: install it there", mend)
    return warn(check, f"could not be asked: {exc.message}", "see that the node is ready, and run the doctor again")


def _server_python(node: Mapping[str, Any]) -> str:
    return str(node["spec"]["server_python"] or node["spec"]["python"])


def _major(version: str | None) -> str:
    return (version or "").partition(".")[0]
