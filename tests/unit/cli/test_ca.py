"""``agentfarm ca``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jupyterhub_agentfarm.cli import main


def test_init_makes_a_private_key_once_and_prints_the_public_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key is 0600, stdout has the line for nodes alone, and a second call overwrites nothing."""
    path = tmp_path / "ca"
    assert main(["ca", "init", str(path)]) == 0
    printed = capsys.readouterr()
    assert path.stat().st_mode & 0o777 == 0o600
    assert printed.out == Path(f"{path}.pub").read_text()
    assert printed.out.startswith("ssh-ed25519 AAAA")
    assert "TrustedUserCAKeys" in printed.err
    assert f'c.SSHPool.user_ca = "{path}"' in printed.err
    before = path.read_bytes()
    assert main(["ca", "init", str(path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_show_prints_the_same_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What init printed can be had again, also as JSON; the private key is in neither."""
    path = tmp_path / "ca"
    main(["ca", "init", str(path)])
    line = capsys.readouterr().out
    assert main(["ca", "show", str(path)]) == 0
    shown = capsys.readouterr()
    assert shown.out == line
    assert main(["ca", "show", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["public_key"] == line.strip()
    assert "PRIVATE" not in shown.out + shown.err


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing key, one that others can read, and a folder that is not there: status 1 and what to do."""
    assert main(["ca", "show", str(tmp_path / "none")]) == 1
    assert "`agentfarm ca init` makes one" in capsys.readouterr().err
    open_to_all = tmp_path / "open"
    open_to_all.write_text("x")
    open_to_all.chmod(0o644)
    assert main(["ca", "show", str(open_to_all)]) == 1
    assert "chmod 600" in capsys.readouterr().err
    assert main(["ca", "init", str(tmp_path / "no" / "ca")]) == 1
    assert "cannot be written" in capsys.readouterr().err
