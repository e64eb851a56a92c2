"""The runtime directory: private, one token, and where services listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyterhub_agentfarm.errors import ConfigError, FarmUnavailable
from jupyterhub_agentfarm.services import local


def test_token(tmp_path: Path) -> None:
    """The token is made once, is long, and nobody else can read it or enter its directory."""
    directory = tmp_path / "run"
    token = local.local_token(directory)
    assert len(token) == 64
    assert local.local_token(directory) == token
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "token").stat().st_mode & 0o777 == 0o600


def test_open_directory_is_refused(tmp_path: Path) -> None:
    """A directory that others may enter is refused, with what to do."""
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        local.local_token(tmp_path)


def test_announce_and_find(tmp_path: Path) -> None:
    """A service is found where it announced itself; one that never did is said so."""
    local.announce(tmp_path / "run", "agentfarm", "http://127.0.0.1:1/")
    assert local.find_service(tmp_path / "run", "agentfarm") == "http://127.0.0.1:1/"
    with pytest.raises(FarmUnavailable, match="no benchmark service is known"):
        local.find_service(tmp_path / "run", "benchmark")
