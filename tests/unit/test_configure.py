"""configure(c) sets up a Hub, and never silently overrides its site."""

from __future__ import annotations

import asyncio
import json
import stat
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from jupyterhub_agentfarm.configure import BENCHMARK_USER, CUSTOM_SCOPES, configure
from jupyterhub_agentfarm.errors import ConfigError
from jupyterhub_agentfarm.logins import AgentLogins
from jupyterhub_agentfarm.share import share_path


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let every test have a runtime directory of its own."""
    path = tmp_path / "runtime"
    monkeypatch.setenv("AGENTFARM_RUNTIME_DIR", str(path))
    accounts_are(monkeypatch, BENCHMARK_USER)
    return path


def accounts_are(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the Hub's machine have these accounts."""
    accounts = SimpleNamespace(getpwnam={name: name for name in names}.__getitem__)
    monkeypatch.setattr("jupyterhub_agentfarm.accounts.pwd", accounts)


def roles_of(c: Config) -> dict[str, dict[str, Any]]:
    """Return the roles by name."""
    return {role["name"]: role for role in c.JupyterHub.load_roles}


def services_of(c: Config) -> dict[str, dict[str, Any]]:
    """Return the services by name."""
    return {service["name"]: service for service in c.JupyterHub.services}


def test_a_fresh_configuration_gets_everything(runtime: Path) -> None:
    """Spawner, services, scopes, roles, group and defaults are set, and the secret is private."""
    c = Config()
    configure(c)
    assert c.JupyterHub.spawner_class == "agentfarm"
    assert c.JupyterHub.cleanup_servers is False
    assert c.JupyterHub.concurrent_spawn_limit == 0
    assert c.JupyterHubHTTPClient.session_options["timeout"].total < 60
    assert set(services_of(c)) == {"agentfarm", "benchmark", "agents"}
    assert set(c.JupyterHub.custom_scopes) == set(CUSTOM_SCOPES)
    assert c.JupyterHub.load_groups == {"agentfarm-benchmark": {"users": [BENCHMARK_USER]}}
    assert stat.S_IMODE((runtime / "token").stat().st_mode) == 0o600


def test_users_keep_themselves_and_see_the_farm() -> None:
    """The role "user" keeps "self", or what the site gave it, and gains reading."""
    c = Config()
    c.JupyterHub.load_roles = [{"name": "user", "scopes": ["self", "shares!user"]}, {"name": "mine", "scopes": []}]
    configure(c)
    scopes = roles_of(c)["user"]["scopes"]
    assert scopes[:2] == ["self", "shares!user"]
    assert "access:services!service=agentfarm" in scopes
    assert "custom:agentfarm:nodes:read" in scopes
    assert not [scope for scope in scopes if scope.endswith(":manage")]
    assert "mine" in roles_of(c)


def test_admins_manage_the_farm() -> None:
    """Admins get the farm's role, however the site named them."""
    c = Config()
    c.Authenticator.admin_users.update({"ada", "bob"})
    configure(c)
    role = roles_of(c)["agentfarm-admin"]
    assert role["users"] == ["ada", "bob"]
    assert set(CUSTOM_SCOPES) < set(role["scopes"])


def test_the_benchmark_may_touch_its_own_user_only() -> None:
    """Every scope of the benchmark on servers and users is bound to its user."""
    c = Config()
    configure(c)
    for scope in roles_of(c)["agentfarm-benchmark"]["scopes"]:
        if "servers" in scope or "users" in scope:
            assert scope.endswith(f"!user={BENCHMARK_USER}")


def test_the_agents_service_may_touch_agents_only() -> None:
    """Its scopes are bound to the group of agents and to projects, but for the one that JupyterHub cannot bind."""
    c = Config()
    c.AgentFarmSpawner.projects = {"weather", "team-*"}
    configure(c, projects=("genomes",))
    role = roles_of(c)["agentfarm-agents"]
    assert role["services"] == ["agents"]
    bound = {scope for scope in role["scopes"] if "!" in scope and not scope.startswith("access:services")}
    assert bound == {
        *(f"{scope}!group=agents" for scope in ("groups", "tokens", "servers", "shares")),
        *("groups!group=weather", "groups!group=genomes"),
    }
    assert {scope for scope in role["scopes"] if "!" not in scope and not scope.startswith("custom:")} == {
        "admin:users"
    }
    assert {"weather", "genomes"} < set(c.JupyterHub.load_groups)
    assert roles_of(c)["agentfarm-agent"]["groups"] == ["agents"]
    assert "custom:agents:registry:manage" in roles_of(c)["agentfarm-admin"]["scopes"]
    assert "custom:agents:tasks:submit" in roles_of(c)["user"]["scopes"]


def test_a_farm_without_agents() -> None:
    """Who has no agents service has none of its roles."""
    c = Config()
    configure(c, services=("agentfarm",))
    assert not {"agentfarm-agent", "agentfarm-agents"} & set(roles_of(c))
    assert "custom:agents:tasks:submit" not in roles_of(c)["user"]["scopes"]


def test_a_sites_values_stay_and_are_warned_of() -> None:
    """What the site has set is kept; where it costs servers a warning says so."""
    c = Config()
    c.JupyterHub.cleanup_servers = True
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 9, "x": 1}
    with pytest.warns(UserWarning, match=r"c\.JupyterHub\.cleanup_servers is True, not False"):
        configure(c)
    assert c.JupyterHub.cleanup_servers is True
    assert c.JupyterHub.tornado_settings == {"slow_spawn_timeout": 9, "x": 1}


def test_another_spawner_is_warned_of() -> None:
    """A site that forgot its old spawner_class line is told."""
    c = Config()
    c.JupyterHub.spawner_class = "sshspawner.sshspawner.SSHSpawner"
    with pytest.warns(UserWarning, match="spawner_class"):
        configure(c)
    assert c.JupyterHub.spawner_class == "sshspawner.sshspawner.SSHSpawner"


def test_a_second_call_changes_nothing() -> None:
    """Others read the same file; two calls are as one."""
    c = Config()
    configure(c)
    first = c.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        configure(c)
    assert services_of(c) == services_of(first)
    assert len(c.JupyterHub.services) == 3
    assert roles_of(c) == roles_of(first)


def test_a_group_can_be_given_the_admins_role() -> None:
    """A role of that name that only says who has it gets the farm's scopes; one that has scopes keeps them."""
    c = Config()
    c.Authenticator.admin_users = {"ada"}
    c.JupyterHub.load_roles = [{"name": "agentfarm-admin", "groups": ["ops"], "users": ["bob"]}]
    configure(c)
    role = roles_of(c)["agentfarm-admin"]
    assert (role["groups"], role["users"]) == (["ops"], ["bob", "ada"])
    assert set(CUSTOM_SCOPES) < set(role["scopes"])
    own = Config()
    own.JupyterHub.load_roles = [{"name": "agentfarm-admin", "scopes": ["self"]}]
    configure(own)
    assert roles_of(own)["agentfarm-admin"] == {"name": "agentfarm-admin", "scopes": ["self"]}


def test_services_get_the_environment_but_no_password(monkeypatch: pytest.MonkeyPatch, runtime: Path) -> None:
    """What the services read reaches them, with the ways to keys and PostgreSQL; passwords and the rest do not."""
    monkeypatch.setenv("AGENTFARM_TELEMETRY", "x")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    monkeypatch.setenv("PGPASSFILE", "/etc/pgpass")
    monkeypatch.setenv("PGPASSWORD", "secret")
    monkeypatch.setenv("OAUTH_SECRET", "secret")
    monkeypatch.setenv("AGENTFARM_DEMO_PASSWORD", "secret")
    monkeypatch.setenv("AGENTFARM_CONTROLLER_PORT", "18101")
    c = Config()
    configure(c, services=("agentfarm",), proxy_url="http://proxy")
    (service,) = c.JupyterHub.services
    assert service["url"].endswith(":18101")
    assert service["environment"]["AGENTFARM_TELEMETRY"] == "x"
    assert service["environment"]["SSH_AUTH_SOCK"] == "/run/agent"
    assert service["environment"]["PGPASSFILE"] == "/etc/pgpass"
    assert service["environment"]["AGENTFARM_PROXY_URL"] == "http://proxy"
    assert service["environment"]["AGENTFARM_RUNTIME_DIR"] == str(runtime)
    assert "secret" not in str(service)


def test_an_external_controller_needs_its_token() -> None:
    """An external controller has no command, but a token."""
    with pytest.raises(ConfigError, match="controller_token"):
        configure(Config(), controller="external")
    c = Config()
    configure(c, controller="external", controller_token="t" * 32)
    service = services_of(c)["agentfarm"]
    assert "command" not in service
    assert service["api_token"] == "t" * 32


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"services": ("streaming",)}, "streaming"),
        ({"controller": "systemd"}, "systemd"),
        ({"port": 1}, "port"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], said: str) -> None:
    """A setting that cannot be used is named in one sentence."""
    with pytest.raises(ConfigError, match=said):
        configure(Config(), **settings)


def test_internal_ssl_reaches_the_services(tmp_path: Path) -> None:
    """With internal_ssl the services listen with TLS and know where the Hub's certificates are."""
    c = Config()
    c.JupyterHub.internal_ssl = True
    c.JupyterHub.internal_certs_location = str(tmp_path / "certs")
    configure(c)
    for service in services_of(c).values():
        assert service["url"].startswith("https://127.0.0.1:")
        assert service["environment"]["AGENTFARM_CERTS_DIR"] == str(tmp_path / "certs")
    assert "IP:127.0.0.1" in c.JupyterHub.trusted_alt_names


def test_with_managed_groups_no_group_is_loaded() -> None:
    """JupyterHub refuses load_groups where the authenticator manages groups; the user is made by a role."""
    c = Config()
    c.Authenticator.manage_groups = True
    configure(c)
    assert "load_groups" not in c.JupyterHub
    assert roles_of(c)["agentfarm-benchmark-user"]["users"] == [BENCHMARK_USER]


def test_the_reference_configuration_loads_without_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The root jupyterhub_config.py is what a site copies: it sets what it says, and nothing warns."""
    nodes = tmp_path / "nodes.json"
    nodes.write_text('[{"name": "n1", "host": "127.0.0.11"}]')
    monkeypatch.setenv("AGENTFARM_NODES", str(nodes))
    monkeypatch.setenv("AGENTFARM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AGENTFARM_PORT", "18000")
    c = PyFileConfigLoader(str(share_path("jupyterhub_config.py"))).load_config()
    assert c.JupyterHub.bind_url == "http://:18000"
    assert "allow_all" not in c.Authenticator
    assert c.Inventory.nodes == [{"name": "n1", "host": "127.0.0.11"}]
    for service in services_of(c).values():
        given = json.loads(Path(service["command"][-1]).read_text())
        assert given["Inventory"]["nodes"] == [{"name": "n1", "host": "127.0.0.11"}]
    assert services_of(c)["benchmark"]["environment"]["AGENTFARM_PROXY_URL"] == "http://127.0.0.1:18000"


def test_everybody_may_log_in_with_the_demos_password_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference lets in whom it names, and anybody where the demo's password is set."""
    monkeypatch.setenv("AGENTFARM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("AGENTFARM_DEMO_PASSWORD", "secret")
    c = PyFileConfigLoader(str(share_path("jupyterhub_config.py"))).load_config()
    assert (c.Authenticator.allow_all, c.JupyterHub.authenticator_class) == (True, "dummy")


@pytest.mark.parametrize("authenticator", [None, "pam", "jupyterhub.auth.PAMAuthenticator"])
def test_pam_wants_an_account_for_the_benchmark_user(
    authenticator: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JupyterHub would end with a traceback; the operator reads what to do instead."""
    accounts_are(monkeypatch, "ada")
    c = Config()
    if authenticator is not None:
        c.JupyterHub.authenticator_class = authenticator

    with pytest.raises(ConfigError, match=r"'benchmark'.*adduser --system --no-create-home benchmark"):
        configure(c)


def test_another_account_can_be_the_benchmark_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Role, group and the service's own option name the same user."""
    accounts_are(monkeypatch, "bench")
    c = Config()
    configure(c, benchmark_user="bench")

    assert c.JupyterHub.load_groups == {"agentfarm-benchmark": {"users": ["bench"]}}
    assert "servers!user=bench" in roles_of(c)["agentfarm-benchmark"]["scopes"]
    assert c.NodeServers.hub_user == "bench"


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("JupyterHub", "authenticator_class", "dummy"),
        ("JupyterHub", "authenticator_class", "jupyterhub.auth.DummyAuthenticator"),
        ("LocalAuthenticator", "create_system_users", True),
        ("PAMAuthenticator", "create_system_users", True),
    ],
)
def test_no_account_is_wanted_where_the_hub_wants_none(
    section: str, option: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Authenticators that are not local, and those that make accounts themselves, take any name."""
    accounts_are(monkeypatch)
    c = Config()
    c[section][option] = value
    configure(c)

    assert c.JupyterHub.spawner_class == "agentfarm"


def test_a_sites_own_hook_of_logins_is_called_first(tmp_path: Path) -> None:
    """Also where it is an option of the authenticator's own class, which counts more; agents are refused after it."""
    called: list[str] = []

    async def own(_authenticator: Any, _handler: Any, auth_model: Any) -> Any:
        called.append(auth_model["name"])
        return None

    c = Config()
    c.DummyAuthenticator.post_auth_hook = own
    configure(c, data_dir=tmp_path)
    configure(c, data_dir=tmp_path)
    hooks = [c.Authenticator.post_auth_hook, c.DummyAuthenticator.post_auth_hook]
    assert [(type(hook), hook.first) for hook in hooks] == [(AgentLogins, None), (AgentLogins, own)]
    assert asyncio.run(hooks[1](None, None, {"name": "ada"})) is None
    assert called == ["ada"]
    other = Config()
    configure(other, services=("agentfarm",))
    assert "post_auth_hook" not in other.Authenticator
