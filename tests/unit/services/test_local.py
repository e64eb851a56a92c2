"""The runtime directory: private, one token, and where services listen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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


@pytest.mark.parametrize("text", ["", "\n", "0123456789abcdef"])
def test_a_token_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    """An empty or short file, as a crash may leave it, is no secret: it is refused with what to do."""
    local.prepare(tmp_path / "run")
    (tmp_path / "run" / "token").write_text(text)
    with pytest.raises(ConfigError, match="remove it"):
        local.local_token(tmp_path / "run")


def test_a_token_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the maker dies while it writes there is no token, nor anything else; the next one makes it."""
    directory = tmp_path / "run"

    def dies(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local.os, "fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        local.local_token(directory)
    assert list(directory.iterdir()) == []
    monkeypatch.undo()
    assert len(local.local_token(directory)) == 64


def test_all_that_make_one_have_the_same_token(tmp_path: Path) -> None:
    """Of several that find no token at the same moment all return the one that is there."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            directory = tmp_path / str(number)
            tokens = set(pool.map(local.local_token, [directory] * 8))
            assert tokens == {(directory / "token").read_text()}


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
