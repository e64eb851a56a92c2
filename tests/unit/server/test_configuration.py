"""The farm's defaults, and what overrides them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyterhub.services.auth import HubOAuth
from traitlets.config import Config

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.server.app import FarmServerApp
from jupyterhub_agentfarm.server.inherited import VARIABLE, take_socket
from jupyterhub_agentfarm.server.websocket import NoDelayWebsocketConnection


@pytest.fixture
def app() -> Iterator[FarmServerApp]:
    """An application that is not running."""
    FarmServerApp.clear_instance()
    yield FarmServerApp()
    FarmServerApp.clear_instance()


def test_kernel_connections_are_without_delay_unless_configured(app: FarmServerApp) -> None:
    """The default connection is ours; a configured class wins."""
    app.gateway_config = SimpleNamespace(gateway_enabled=False)
    assert app.kernel_websocket_connection_class is NoDelayWebsocketConnection
    other = FarmServerApp(
        config=Config({"ServerApp": {"kernel_websocket_connection_class": ZMQChannelsWebsocketConnection}})
    )
    assert other.kernel_websocket_connection_class is ZMQChannelsWebsocketConnection


def test_no_output_is_dropped_unless_configured() -> None:
    """The rate limit is off; the configuration of Jupyter's own class switches it on."""
    bare = NoDelayWebsocketConnection.__new__(NoDelayWebsocketConnection)
    assert bare.limit_rate is False
    configured = NoDelayWebsocketConnection.__new__(NoDelayWebsocketConnection)
    configured.config = Config({"ZMQChannelsWebsocketConnection": {"limit_rate": True}})
    assert configured.limit_rate is True


def test_a_revoked_token_is_cached_for_half_a_minute_unless_configured(
    app: FarmServerApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default is 30 s; a configuration file goes before it, and the command line before that."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_NO_CONFIG", "")
    app.load_config_file()
    assert app.config.HubOAuth.cache_max_age == 30
    assert HubOAuth.cache_max_age.default_value == 300
    (tmp_path / "jupyter_server_config.py").write_text("c.HubOAuth.cache_max_age = 7\n", "utf-8")
    configured = FarmServerApp(config_dir=str(tmp_path))
    configured.load_config_file()
    assert configured.config.HubOAuth.cache_max_age == 7


@pytest.mark.parametrize("value", ["x", "99999", "-1"])
def test_a_variable_that_names_no_socket_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable and what it had."""
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(InvalidField, match=f"{VARIABLE} .*{value}"):
        take_socket()


def test_a_socket_that_does_not_listen_is_refused_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a listening socket is taken over."""
    with socket.socket() as sock:
        monkeypatch.setenv(VARIABLE, str(sock.fileno()))
        with pytest.raises(InvalidField):
            take_socket()
        assert sock.getsockname()


def test_the_socket_is_taken_once_and_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards the variable is gone and a child does not inherit the file descriptor."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        copy = os.dup(sock.fileno())
        os.set_inheritable(copy, True)
        monkeypatch.setenv(VARIABLE, str(copy))
        with take_socket() or sys.exit("no socket") as taken:
            assert taken.getsockname() == sock.getsockname()
            assert not taken.get_inheritable()
            assert VARIABLE not in os.environ
            assert take_socket() is None
