"""The doctor's check that nobody logs in as an agent: the hook that `configure` sets is the one that the Hub calls.

The Hub does not say which hook it has, so the configuration is asked, after all of its lines: one below the call of
`configure`, an option of the authenticator's own class, or an authenticator with a way in of its own may each leave the
hook out. :func:`logins_of` runs in the process that has read the file, :func:`check_logins` in the doctor's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traitlets import TraitError
from traitlets.config import Config

from ..logins import AgentLogins
from ..service_roles import AGENTS
from ..services import reserved
from .findings import Finding, fail, ok, warn

_CHECK = "logins"
#: Where the key of what :func:`logins_of` returns is among the doctor's settings.
KEY = "logins"
#: Methods of an authenticator without which the hook is not called.
_CALLERS = ("get_authenticated_user", "run_post_auth_hook")
_LAST = "let nothing below `configure(c)` set it; a hook of your own is set above it, and called first"


def logins_of(config: Config) -> dict[str, str]:
    """Return what a configuration makes of logins; nothing where it has no agents service."""
    services = config.JupyterHub.get("services", [])
    named = services if isinstance(services, list) else []  # before a call of `configure` it may be a lazy value
    mine = next((service for service in named if service.get("name") == AGENTS), None)
    if mine is None:
        return {}
    folder = mine.get("environment", {}).get("AGENTFARM_DATA_DIR", "")
    try:
        return {"written": str(Path(folder) / reserved.FILE_NAME) if folder else "", **_hook_of(config)}
    except (TraitError, ImportError, AttributeError) as exc:
        return {"error": str(exc)}


def _hook_of(config: Config) -> dict[str, str]:
    from jupyterhub.app import JupyterHub  # the Hub's own modules, which the doctor's process does not need
    from jupyterhub.auth import Authenticator

    kind = JupyterHub(config=config).authenticator_class
    own = [name for name in _CALLERS if getattr(kind, name) is not getattr(Authenticator, name)]
    found = {"authenticator": kind.__name__, "overridden": ", ".join(own), "option": "", "read": ""}
    for cls in kind.mro():
        if "post_auth_hook" in config.get(cls.__name__, {}):
            hook = config[cls.__name__].post_auth_hook
            read = str(hook.names) if isinstance(hook, AgentLogins) else ""
            return found | {"option": f"c.{cls.__name__}.post_auth_hook", "read": read}
    return found


def check_logins(settings: Mapping[str, Any]) -> list[Finding]:
    """Return whether a person who has an agent's name at the identity provider is kept from logging in as it."""
    told: Mapping[str, str] = settings.get(KEY) or {}
    if not told:
        return []
    if "error" in told:
        mend = "mend c.JupyterHub.authenticator_class; the Hub does not start with it either"
        return [fail(_CHECK, f"the authenticator cannot be loaded: {told['error']}", mend)]
    if not told["option"]:
        return [fail(_CHECK, "people may log in under agents' names: no post_auth_hook is set", _LAST)]
    if not told["read"]:
        message = f"people may log in under agents' names: {told['option']} is not the farm's"
        return [fail(_CHECK, message, _LAST)]
    if told["overridden"]:
        message = f"{told['authenticator']} has a {told['overridden']} of its own, which may not call the farm's hook"
        return [warn(_CHECK, message, "try to log in as an agent: the Hub must refuse it")]
    return [_check_names(told)]


def _check_names(told: Mapping[str, str]) -> Finding:
    """Return whether the hook reads what the agents service writes."""
    read, written = told["read"], told["written"]
    if written and read != written:
        mend = "have both in the data_dir of `configure(c, data_dir=…)`, and set no other AGENTFARM_DATA_DIR"
        return fail(_CHECK, f"the names of agents are read from {read}, and written to {written}", mend)
    path = Path(read)
    try:
        count = len(json.loads(path.read_text())) if path.exists() else 0
    except (OSError, ValueError) as exc:
        mend = f"give {path} to the account of the Hub; the agents service writes it anew at its start"
        return fail(_CHECK, f"the names of agents in {path} cannot be read: {exc}", mend)
    return ok(_CHECK, f"nobody logs in as an agent; {count} names are kept from people")
