"""Managed services get their options without executing the Hub's configuration file."""

from __future__ import annotations

import importlib
import json
import pkgutil
import stat
from pathlib import Path

import pytest
from traitlets.config import Config, Configurable
from traitlets.config.loader import PyFileConfigLoader

import jupyterhub_agentfarm
from jupyterhub_agentfarm.agents.app import AgentsApp
from jupyterhub_agentfarm.benchmark.app import BenchmarkApp
from jupyterhub_agentfarm.controller.app import ControllerApp
from jupyterhub_agentfarm.errors import ConfigError
from jupyterhub_agentfarm.handover import CLASSES, KEPT_FILES, service_options, write_service_config
from jupyterhub_agentfarm.inventory import Inventory
from jupyterhub_agentfarm.placement import PlacementPolicy
from jupyterhub_agentfarm.services.app import ServiceApp
from jupyterhub_agentfarm.transport import SSHPool

SITE = """
import os
from jupyterhub_agentfarm.configure import configure

c = get_config()
c.JupyterHub.authenticator_class = "dummy"
c.GenericOAuthenticator.client_secret = os.environ["OAUTH_SECRET"]
c.ServiceApp.log_level = "DEBUG"
c.ControllerApp.db_url = "sqlite:////srv/farm.sqlite"
c.Inventory.nodes.append({"name": "gpu1", "host": "10.0.0.11"})
c.PlacementPolicy.disk_mountpoints.append("/scratch")
c.PlacementPolicy.weights.update({"cpu": 2})
c.SSHPool.client_keys = ("/etc/key",)
c.BenchmarkApp.suites_dirs = ["/srv/suites"]
c.ControllerApp.Farm.keep_released = 60
c.FarmClient.token = "of the spawner"
configure(c)
"""


def test_services_start_where_the_configuration_file_cannot_be_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site's file needs what only the Hub's environment has; services get all their options all the same."""
    monkeypatch.setenv("AGENTFARM_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "jupyterhub_config.py").write_text(SITE)
    monkeypatch.setenv("OAUTH_SECRET", "for the Hub alone")
    c = PyFileConfigLoader("jupyterhub_config.py", path=str(tmp_path)).load_config()
    monkeypatch.delenv("OAUTH_SECRET")
    commands = {service["name"]: service["command"] for service in c.JupyterHub.services}
    controller, benchmark = ControllerApp(), BenchmarkApp()
    controller.initialize(commands["agentfarm"][3:])
    benchmark.initialize(commands["benchmark"][3:])
    assert (controller.db_url, controller.log_level, benchmark.log_level) == ("sqlite:////srv/farm.sqlite", 10, 10)
    assert benchmark.suites_dirs == ["/srv/suites"]
    assert controller.config.Inventory.nodes == [{"name": "gpu1", "host": "10.0.0.11"}]
    policy = PlacementPolicy(parent=controller)
    assert policy.disk_mountpoints[-1] == "/scratch"
    assert policy.disk_mountpoints[:-1] == PlacementPolicy().disk_mountpoints
    assert policy.weights == {"cpu": 2}
    assert SSHPool(parent=controller).client_keys == ["/etc/key"]
    assert controller.config.ControllerApp.Farm.keep_released == 60
    (file,) = (tmp_path / "run").glob("config-*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not {"of the spawner", "for the Hub alone"} & set(file.read_text().split('"'))


def test_every_option_of_the_services_is_handed_over() -> None:
    """The classes are those that a service's process configures, with their parents, and where they are is right."""
    apps = (ControllerApp, BenchmarkApp, AgentsApp)
    wanted = {ServiceApp, *apps, *(cls for app in apps for cls in app.classes)}
    for package in ("controller", "inventory", "placement", "transport", "services", "benchmark", "agents"):
        path = str(Path(jupyterhub_agentfarm.__file__).parent / package)
        for module in pkgutil.iter_modules([path], f"jupyterhub_agentfarm.{package}."):
            if not module.name.endswith("__main__"):
                found = vars(importlib.import_module(module.name)).values()
                wanted |= {c for c in found if isinstance(c, type) and c.__module__ == module.name}
    names = {c.__name__ for c in wanted if issubclass(c, Configurable) and c.class_own_traits(config=True)}
    clients = {"BenchmarkClient", "AgentsClient", "ServiceClient"}  # the command line's
    assert set(CLASSES) == names - clients | {"Application"}
    for name, module_name in CLASSES.items():
        assert issubclass(getattr(importlib.import_module(module_name), name), Configurable)


def test_only_the_services_classes_are_handed_over() -> None:
    """What the Hub alone needs, secrets above all, is not written down."""
    c = Config()
    c.JupyterHub.cookie_secret = b"x"
    c.GitHubOAuthenticator.client_secret = "secret"
    c.AgentFarmSpawner.max_gpus = 2
    c.FarmClient.token = "secret"
    c.FarmClient.timeout = 5
    assert service_options(c) == {"FarmClient": {"timeout": 5}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([{"name": "a", "host": Path("/x")}], r"c\.Inventory\.nodes\[0\]\['host'\] must be .* not PosixPath"),
        (print, r"c\.Inventory\.nodes must be .* not builtin_function"),
        ({1: "a"}, r"c\.Inventory\.nodes must be .* not dict"),
    ],
)
def test_what_is_not_json_is_named(value: object, said: str) -> None:
    """An option that cannot be handed over stops the Hub with its name instead of being lost."""
    c = Config()
    c.Inventory.nodes = value
    with pytest.raises(ConfigError, match=said):
        service_options(c)


def test_a_change_of_no_option_is_named() -> None:
    """`append` to an option that does not exist is a mistake in writing."""
    c = Config()
    c.Inventory.nods.append({"name": "a"})
    with pytest.raises(ConfigError, match=r"c\.Inventory\.nods .* no option"):
        service_options(c)


def test_the_sites_configuration_is_left_as_it_is() -> None:
    """Handing over computes no value for the Hub's own use of the configuration."""
    c = Config()
    c.Inventory.nodes.append({"name": "a", "host": "h"})
    service_options(c)
    c.Inventory.nodes.append({"name": "b", "host": "h"})
    assert [node["name"] for node in service_options(c)["Inventory"]["nodes"]] == ["a", "b"]
    assert [node["name"] for node in Inventory(config=c).nodes] == ["a", "b"]


def test_another_environment_does_not_change_what_a_running_hub_uses(tmp_path: Path) -> None:
    """Who reads the configuration file elsewhere writes another file; old ones are removed in the end."""
    c = Config()
    c.Inventory.nodes = [{"name": "a", "host": "h"}]
    first = write_service_config(c, tmp_path / "run")
    c.Inventory.nodes = []
    assert write_service_config(c, tmp_path / "run") != first
    assert json.loads(first.read_text())["Inventory"]["nodes"] == [{"name": "a", "host": "h"}]
    for number in range(2 * KEPT_FILES):
        c.Inventory.nodes = [{"name": f"n{number}", "host": "h"}]
        last = write_service_config(c, tmp_path / "run")
    files = list((tmp_path / "run").glob("config-*.json"))
    assert len(files) == KEPT_FILES
    assert last in files


def test_a_configuration_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    """A service that cannot find the file it was given ends, instead of running a farm without nodes."""
    missing = tmp_path / "config.json"
    with pytest.raises(SystemExit, match=f"{missing} is not there"):
        ControllerApp().initialize(["--config", str(missing)])


def test_an_external_service_reads_the_hubs_file_itself(tmp_path: Path) -> None:
    """`-f jupyterhub_config.py` goes on to work."""
    (tmp_path / "jupyterhub_config.py").write_text("c.Inventory.nodes = [{'name': 'a', 'host': 'h'}]")
    app = ControllerApp()
    app.initialize(["-f", str(tmp_path / "jupyterhub_config.py")])
    assert app.config.Inventory.nodes == [{"name": "a", "host": "h"}]
