"""The options that the Hub's configuration has for the services that the Hub starts.

These do not execute jupyterhub_config.py again: it may need what only the Hub has, such as an environment variable with
an OAuth secret, and whatever else it does is not to be done three times. They get the options of their own classes in a
JSON file, which traitlets reads like any configuration file::

    jupyterhub_config.py ── configure(c) ──▶ RUNTIME_DIR/config-DIGEST.json ──▶ --config of each managed service

The name is made of the contents. So whoever else reads jupyterhub_config.py, in another environment perhaps, as the
doctor, never changes what the services of a running Hub find when the Hub starts them again.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

from .errors import ConfigError
from .services import local

#: Classes whose options services take from the configuration, and the modules that they are in.
CLASSES = {
    "Application": "traitlets.config",
    "ServiceApp": "jupyterhub_agentfarm.services.app",
    "StoredService": "jupyterhub_agentfarm.services.stored",
    "ControllerApp": "jupyterhub_agentfarm.controller.app",
    "Farm": "jupyterhub_agentfarm.controller.farm",
    "Inventory": "jupyterhub_agentfarm.inventory",
    "SSHPool": "jupyterhub_agentfarm.transport",
    "PlacementPolicy": "jupyterhub_agentfarm.placement",
    "BenchmarkApp": "jupyterhub_agentfarm.benchmark.app",
    "FarmClient": "jupyterhub_agentfarm.controller.client",
    "FarmWatch": "jupyterhub_agentfarm.controller.farm_watch",
    "NodeServers": "jupyterhub_agentfarm.benchmark.servers",
    "NodeKeeper": "jupyterhub_agentfarm.benchmark.exclusive",
    "Runner": "jupyterhub_agentfarm.benchmark.runner",
    "ReportRenderer": "jupyterhub_agentfarm.benchmark.report",
    "PrometheusCheck": "jupyterhub_agentfarm.benchmark.report",
    "AgentsApp": "jupyterhub_agentfarm.agents.app",
    "Registry": "jupyterhub_agentfarm.agents.registry.registry",
    "TaskBook": "jupyterhub_agentfarm.agents.tasks.book",
    "TaskFiles": "jupyterhub_agentfarm.agents.tasks.files",
    "Dispatcher": "jupyterhub_agentfarm.agents.dispatch.dispatcher",
    "Carriers": "jupyterhub_agentfarm.agents.dispatch.carriers",
    "TaskServers": "jupyterhub_agentfarm.agents.dispatch.servers",
    "WarmServers": "jupyterhub_agentfarm.agents.dispatch.warm",
    "McpEndpoint": "jupyterhub_agentfarm.agents.mcp.server",
    "Kernels": "jupyterhub_agentfarm.agents.jupyter.kernels",
    "ToolDesk": "jupyterhub_agentfarm.agents.mcp.tools.caller",
}
#: Options that no managed service reads: these have tokens of their own.
_SECRETS = {("FarmClient", "token")}
#: Files that are kept: a Hub that runs may still need the one before.
KEPT_FILES = 5


def service_options(c: Config) -> dict[str, dict[str, Any]]:
    """Return the options of the services' classes in `c`, as JSON has them.

    Raises
    ------
    ConfigError
        A value cannot be written as JSON.
    """
    sections = {name: _section(name, c[name], name) for name in CLASSES if dict.get(c, name)}
    return {name: options for name, options in sections.items() if options}


def write_service_config(c: Config, runtime_dir: Path) -> Path:
    """Write the services' options to a file (0600) in the runtime directory, and return it.

    Raises
    ------
    ConfigError
        A value cannot be written as JSON, or the runtime directory is not private.
    """
    text = json.dumps(service_options(c), indent=1, sort_keys=True)
    local.prepare(runtime_dir)
    path = runtime_dir / f"config-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    local.write_private(path, text)
    others = sorted(set(runtime_dir.glob("config-*.json")) - {path}, key=_written_at, reverse=True)
    for old in others[KEPT_FILES - 1 :]:
        old.unlink(missing_ok=True)
    return path


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # somebody else has just removed it
        return 0.0


def _section(cls: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the options of a class; a section in it has options of the class for where it is within this one."""
    result: dict[str, Any] = {}
    for name, value in options.items():
        full = f"{where}.{name}"
        if isinstance(value, Config):
            if name in CLASSES:
                result[name] = _section(name, value, full)
        elif (cls, name) not in _SECRETS:
            result[name] = _plain(_reified(cls, name, value, full), full)
    return result


def _reified(cls: str, name: str, value: Any, where: str) -> Any:
    """Return what `c.Class.option.append(…)` and the like make of the option's default."""
    if not isinstance(value, LazyConfigValue):
        return value
    trait = getattr(importlib.import_module(CLASSES[cls]), cls).class_traits(config=True).get(name)
    if trait is None:
        raise ConfigError(f"c.{where} is changed, but there is no option of this name")
    return copy.deepcopy(value).get_value(trait.default())


def _plain(value: Any, where: str) -> Any:
    """Return `value` as what JSON has; traitlets makes tuples and sets of lists where it wants them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return [_plain(item, where) for item in sorted(value, key=repr)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise ConfigError(
        f"c.{where} must be made of text, numbers, lists and dictionaries with keys of text, not "
        f"{type(value).__name__}: the services get it as JSON"
    )
