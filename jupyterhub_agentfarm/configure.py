"""Everything that a Hub needs for the farm, in one call from jupyterhub_config.py.

::

    from jupyterhub_agentfarm.configure import configure

    configure(c)

It names the spawner, the services with their scopes and roles, and the defaults that keep users' servers alive while
the Hub restarts. What the site has set itself stays; where that costs servers or starts, a warning says so. The
services that the Hub starts get the options of their own classes, as they are at the call, by :mod:`.handover`.
So it is called last.

Others read the same file, as an external controller and the doctor do: calling it is quick and changes nothing but `c`
and the runtime directory, where it makes the secret once and writes the services' options.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

from . import encryption
from .accounts import check_benchmark_user
from .errors import ConfigError
from .handover import write_service_config
from .logins import AgentLogins
from .service_roles import AGENTS, BENCHMARK, CONTROLLER, SUBMIT, agent_roles, benchmark_role
from .services import ADMIN_ROLE, local, reserved, tls

#: Hub user whose servers the benchmark service starts, unless the site names another.
BENCHMARK_USER = "benchmark"

#: What the services check, with the description that the Hub shows.
CUSTOM_SCOPES = {
    "custom:agentfarm:nodes:read": "See the farm's nodes, GPUs and waiting line",
    "custom:agentfarm:nodes:manage": "Add, cordon, drain and remove nodes",
    "custom:agentfarm:nodes:keep": "Drain nodes for one owner's servers, and give them back",
    "custom:agentfarm:leases:read": "See everybody's leases",
    "custom:agentfarm:leases:manage": "Make and end everybody's leases",
    "custom:agentfarm:limits:manage": "Limit what an owner may have",
    "custom:benchmark:runs:read": "See benchmark runs and reports",
    "custom:benchmark:runs:manage": "Start and cancel benchmark runs",
    "custom:agents:registry:read": "See all agents and their tasks",
    "custom:agents:registry:manage": "Register, change, suspend and retire agents, and do everything with their tasks",
    "custom:agents:tasks:submit": "Submit tasks of agents that one is, or owns",
}
_READ = ("custom:agentfarm:nodes:read", "custom:benchmark:runs:read")
_MODULES = {
    CONTROLLER: "jupyterhub_agentfarm.controller",
    BENCHMARK: "jupyterhub_agentfarm.benchmark",
    AGENTS: "jupyterhub_agentfarm.agents",
}
_SCOPE_PREFIXES = {CONTROLLER: "custom:agentfarm:", BENCHMARK: "custom:benchmark:", AGENTS: "custom:agents:"}

#: Defaults that keep servers alive, and what a site loses that sets them otherwise.
SAFE_DEFAULTS: tuple[tuple[str, str, Any, str], ...] = (
    ("JupyterHub", "cleanup_servers", False, "a Hub that is stopped then stops every server with it"),
    ("JupyterHub", "concurrent_spawn_limit", 0, "starts that wait in line for a GPU count against it"),
    ("JupyterHub", "allow_named_servers", True, "agents and benchmarks use named servers"),
)
#: Where the services find the keys of nodes and how to reach PostgreSQL; none of it is a secret itself.
_PASSED_ON = frozenset({
    "SSH_AUTH_SOCK", "PGPASSFILE", "PGSERVICEFILE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY",
})  # fmt: skip
_HUB_REQUEST_SECONDS = 20
_SLOW_SPAWN_SECONDS = 1
#: A Hub ends at its start when a service does not listen within this: on a busy machine Python's imports take long.
_SERVICE_START_SECONDS = 120


@dataclass(frozen=True)
class FarmSettings:
    """The options of :func:`configure`, with the environment variables that set their defaults."""

    #: Services that this Hub has, of "agentfarm", "benchmark" and "agents".
    services: tuple[str, ...] = (CONTROLLER, BENCHMARK, AGENTS)
    #: "managed": the Hub starts the controller, and a Hub that is stopped stops it. "external": systemd does, with
    #: `python -m jupyterhub_agentfarm.controller`, and restarts of the Hub do not touch it.
    controller: Literal["managed", "external"] = "managed"
    #: Hub token of an external controller (its JUPYTERHUB_API_TOKEN).
    controller_token: str | None = field(default=None, repr=False)
    #: $AGENTFARM_CONTROLLER_PORT
    controller_port: int = field(default_factory=lambda: _port("AGENTFARM_CONTROLLER_PORT", 8101))
    #: $AGENTFARM_BENCHMARK_PORT
    benchmark_port: int = field(default_factory=lambda: _port("AGENTFARM_BENCHMARK_PORT", 8102))
    #: $AGENTFARM_AGENTS_PORT
    agents_port: int = field(default_factory=lambda: _port("AGENTFARM_AGENTS_PORT", 8103))
    #: Directory (0700) with the local token; $AGENTFARM_RUNTIME_DIR, else ./agentfarm-runtime.
    runtime_dir: Path = field(default_factory=local.default_runtime_dir)
    #: Directory of the services' databases; $AGENTFARM_DATA_DIR, else the working directory.
    data_dir: Path = field(default_factory=lambda: Path(os.environ.get("AGENTFARM_DATA_DIR") or ".").absolute())
    #: Hub user whose servers the benchmark service starts. With PAM it must be an account of the Hub's machine.
    benchmark_user: str = BENCHMARK_USER
    #: Hub groups that are projects and that agents may be put into, beside those that `c.AgentFarmSpawner.projects`
    #: names without a `*`; made where they are not.
    projects: tuple[str, ...] = ()
    #: URL at which this machine reaches the Hub's proxy; $AGENTFARM_PROXY_URL.
    proxy_url: str = field(default_factory=lambda: os.environ.get("AGENTFARM_PROXY_URL") or "http://127.0.0.1:8000")

    def __post_init__(self) -> None:
        """Refuse what cannot be set up."""
        unknown = set(self.services) - set(_MODULES)
        if unknown:
            raise ConfigError(f"configure(services=…) knows {', '.join(_MODULES)}, not {', '.join(sorted(unknown))}")
        if self.controller not in ("managed", "external"):
            raise ConfigError(f'configure(controller=…) must be "managed" or "external", not {self.controller!r}')
        if self.controller == "external" and not self.controller_token:
            raise ConfigError('configure(controller="external") needs controller_token, the token that it starts with')


def configure(c: Config, **settings: Any) -> None:
    """Set up the Hub of configuration `c` for the farm.

    Who is in `c.Authenticator.admin_users` gets the role `agentfarm-admin`, which is what managing nodes and leases and
    running benchmarks takes. JupyterHub's own role "admin" cannot be extended, so admins who are made later, on the
    Hub's admin page or by the authenticator, do not have it. Give it to them, or to a group, before the call::

        c.JupyterHub.load_roles = [{"name": "agentfarm-admin", "groups": ["ops"]}]

    A role of that name without `scopes` gets those of the farm's admins; one that has some keeps them.

    Parameters
    ----------
    c
        The configuration of jupyterhub_config.py.
    settings
        Fields of :class:`FarmSettings`.

    Raises
    ------
    ConfigError
        A setting is unknown or cannot be used, or an option of the services cannot be written as JSON.
    """
    try:
        farm = FarmSettings(**settings)
    except TypeError as exc:
        known = ", ".join(FarmSettings.__dataclass_fields__)
        raise ConfigError(f"configure() takes {known}; it was called with {', '.join(settings)}") from exc
    if encryption.encrypted(c):
        encryption.encrypt(c)
    if BENCHMARK in farm.services:
        check_benchmark_user(c, farm.benchmark_user)
        _default(c, "NodeServers", "hub_user", farm.benchmark_user)
    local.local_token(Path(farm.runtime_dir))
    _set_spawner(c, farm)
    _set_defaults(c)
    _set_services(c, farm)
    _set_roles(c, farm)
    if AGENTS in farm.services:
        _set_logins(c, farm)


def _port(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not (text.isdecimal() and int(text) < 65536):
        raise ConfigError(f"${variable} must be a TCP port, not {text!r}")
    return int(text)


# ---- reading and writing the configuration without overriding the site -----------------------------------------


def _get(c: Config, cls: str, name: str) -> Any:
    """Return what the site has set, or None."""
    if cls not in c or name not in c[cls]:
        return None
    value = c[cls][name]
    if isinstance(value, LazyConfigValue):
        return value.get_value(set() if name in ("admin_users", "projects") else [])
    return value


def _default(c: Config, cls: str, name: str, value: Any) -> bool:
    """Set an option unless the site has; return whether its value is now `value`."""
    found = _get(c, cls, name)
    if found is None:
        c[cls][name] = value
    return found is None or found == value


def _extend(c: Config, cls: str, name: str, values: list[Any]) -> None:
    """Add to a list of the site's."""
    c[cls][name] = [*(_get(c, cls, name) or []), *values]


# ---- the parts -------------------------------------------------------------------------------------------------


def _set_spawner(c: Config, farm: FarmSettings) -> None:
    if not _default(c, "JupyterHub", "spawner_class", "agentfarm"):
        warnings.warn(
            f"c.JupyterHub.spawner_class is {_get(c, 'JupyterHub', 'spawner_class')!r}: servers do not start on the "
            "farm unless it is a subclass of AgentFarmSpawner",
            stacklevel=3,
        )
    _default(c, "FarmClient", "runtime_dir", str(farm.runtime_dir))
    _default(c, "ServiceApp", "runtime_dir", str(farm.runtime_dir))


def _set_defaults(c: Config) -> None:
    for cls, name, value, loss in SAFE_DEFAULTS:
        if not _default(c, cls, name, value):
            found = _get(c, cls, name)
            warnings.warn(f"c.{cls}.{name} is {found!r}, not {value!r}: {loss}", stacklevel=3)
    session = dict(_get(c, "JupyterHubHTTPClient", "session_options") or {})
    session.setdefault("timeout", aiohttp.ClientTimeout(total=_HUB_REQUEST_SECONDS))
    c.JupyterHubHTTPClient.session_options = session
    tornado_settings = dict(_get(c, "JupyterHub", "tornado_settings") or {})
    tornado_settings.setdefault("slow_spawn_timeout", _SLOW_SPAWN_SECONDS)
    c.JupyterHub.tornado_settings = tornado_settings
    _set_notices(c)


def _set_notices(c: Config) -> None:
    """Have the Hub's pages tell users why their servers ended, beside what the site announces."""
    from .spawner.notices import Notices  # the Hub's own modules, which are read here and not by whoever imports this

    shown = dict(_get(c, "JupyterHub", "template_vars") or {})
    if not isinstance(shown.get("announcement"), Notices):
        shown["announcement"] = Notices(shown.get("announcement", ""))
    c.JupyterHub.template_vars = shown


def _set_logins(c: Config, farm: FarmSettings) -> None:
    """Have logins as agents refused, after the site's own hook; an option of a subclass counts more than the base's."""
    subclasses = [name for name in c if name != "Authenticator" and _get(c, name, "post_auth_hook") is not None]
    for name in ("Authenticator", *subclasses):
        first = _get(c, name, "post_auth_hook") or None
        if not isinstance(first, AgentLogins):
            c[name].post_auth_hook = AgentLogins(farm.data_dir / reserved.FILE_NAME, first)


def _set_services(c: Config, farm: FarmSettings) -> None:
    ports = {CONTROLLER: farm.controller_port, BENCHMARK: farm.benchmark_port, AGENTS: farm.agents_port}
    config_file = write_service_config(c, Path(farm.runtime_dir))
    taken = {service["name"] for service in _get(c, "JupyterHub", "services") or []}
    certs_dir = str(encryption.certs_dir(c)) if encryption.encrypted(c) else ""
    added = [_service(name, ports[name], farm, config_file, certs_dir) for name in farm.services if name not in taken]
    _extend(c, "JupyterHub", "services", added)


def _service(name: str, port: int, farm: FarmSettings, config_file: Path, certs_dir: str) -> dict[str, Any]:
    service: dict[str, Any] = {
        "name": name,
        "url": f"{'https' if certs_dir else 'http'}://127.0.0.1:{port}",
        "oauth_no_confirm": True,
        "oauth_client_allowed_scopes": [
            f"access:services!service={name}",
            *(scope for scope in CUSTOM_SCOPES if scope.startswith(_SCOPE_PREFIXES[name])),
        ],
    }
    if name == CONTROLLER and farm.controller == "external":
        return service | {"api_token": farm.controller_token}
    command = [sys.executable, "-m", _MODULES[name], "--config", str(config_file)]
    certs = {tls.ENV_CERTS_DIR: certs_dir} if certs_dir else {}
    return service | {"command": command, "environment": _environment(farm, os.environ) | certs} | _patience()


def _patience() -> dict[str, int]:
    """Return how long the Hub waits for a service at its start, where that is an option: since JupyterHub 6."""
    from jupyterhub.services.service import Service  # the Hub's own module: see _set_notices

    return {"timeout": _SERVICE_START_SECONDS} if "timeout" in Service.class_trait_names() else {}


def _environment(farm: FarmSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what the services need of the environment; JupyterHub gives them little else."""
    inherited = {
        name: value
        for name, value in environ.items()
        if name in _PASSED_ON or (name.startswith("AGENTFARM_") and not name.endswith(("_PASSWORD", "_TOKEN")))
    }
    return inherited | {
        local.ENV_RUNTIME_DIR: str(farm.runtime_dir),
        "AGENTFARM_DATA_DIR": str(farm.data_dir),
        "AGENTFARM_PROXY_URL": farm.proxy_url,
    }


def _set_roles(c: Config, farm: FarmSettings) -> None:
    custom = dict(_get(c, "JupyterHub", "custom_scopes") or {})
    for scope, description in CUSTOM_SCOPES.items():
        custom.setdefault(scope, {"description": description})
    c.JupyterHub.custom_scopes = custom
    roles = [dict(role) for role in _get(c, "JupyterHub", "load_roles") or []]
    _extend_user_role(roles, farm)
    _add_admin_role(roles, _admin_role(farm, sorted(_get(c, "Authenticator", "admin_users") or ())))
    if BENCHMARK in farm.services:
        _add_role(roles, benchmark_role(farm.benchmark_user))
        if _get(c, "Authenticator", "manage_groups"):
            _add_role(roles, {"name": "agentfarm-benchmark-user", "scopes": ["self"], "users": [farm.benchmark_user]})
        _add_group(c, "agentfarm-benchmark", [farm.benchmark_user])
    if AGENTS in farm.services:
        projects = _projects(c, farm)
        for role in agent_roles(projects):
            _add_role(roles, role)
        for project in projects:
            _add_group(c, project, [])
    c.JupyterHub.load_roles = roles


def _projects(c: Config, farm: FarmSettings) -> tuple[str, ...]:
    """Return the projects that agents may be put into; what a `*` stands for is known to nobody yet."""
    if farm.projects:
        _default(c, "AgentFarmSpawner", "projects", set(farm.projects))
    named = {name for name in _get(c, "AgentFarmSpawner", "projects") or () if "*" not in name}
    return tuple(sorted(named | set(farm.projects)))


def _add_group(c: Config, name: str, users: list[str]) -> None:
    """Have the Hub make a group, unless the site does or leaves groups to its authenticator, which forbids it."""
    if not _get(c, "Authenticator", "manage_groups"):
        groups = dict(_get(c, "JupyterHub", "load_groups") or {})
        groups.setdefault(name, {"users": users})
        c.JupyterHub.load_groups = groups


def _extend_user_role(roles: list[dict[str, Any]], farm: FarmSettings) -> None:
    """Let every user see the farm; what users may do otherwise stays."""
    for role in roles:
        if role["name"] == "user":
            break
    else:
        role = {"name": "user", "description": "Standard user privileges", "scopes": ["self"]}
        roles.append(role)
    access = [f"access:services!service={name}" for name in farm.services]
    submit = [SUBMIT] if AGENTS in farm.services else []
    role["scopes"] = list(dict.fromkeys([*role.get("scopes", ["self"]), *access, *_READ, *submit]))


def _admin_role(farm: FarmSettings, admins: list[str]) -> dict[str, Any]:
    """Return the role of the farm's admins; JupyterHub's own role "admin" cannot be extended."""
    access = [f"access:services!service={name}" for name in farm.services]
    return {
        "name": ADMIN_ROLE,
        "description": "Manage the farm's nodes, leases and agents and run benchmarks",
        "scopes": [*CUSTOM_SCOPES, *access, "read:metrics"],
        "users": admins,
    }


def _add_admin_role(roles: list[dict[str, Any]], role: dict[str, Any]) -> None:
    """Add the admins' role; to one of the site's that only says who has it, add what it is and the admins."""
    for mine in roles:
        if mine["name"] == role["name"] and "scopes" not in mine:
            users = list(dict.fromkeys([*mine.get("users", ()), *role["users"]]))
            mine.update({**role, **mine, "users": users})
    _add_role(roles, role)


def _add_role(roles: list[dict[str, Any]], role: dict[str, Any]) -> None:
    """Add a role unless the site has one of that name."""
    if all(other["name"] != role["name"] for other in roles):
        roles.append(role)
