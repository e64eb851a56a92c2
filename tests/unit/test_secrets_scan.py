"""The scanner of `test_secrets.py` finds what is planted: without that its silence would say nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from secrets_scan import STRANGER, Allowed, Scan

SLEEP = "import time; print(flush=True); time.sleep(60)"


def test_what_is_planted_is_found(tmp_path: Path) -> None:
    """A secret in an argument, an answer, or a file that others can read is found; one in its own file is allowed."""
    planted = "planted-secret-" + os.urandom(8).hex()
    scan = Scan()
    (tmp_path / "open").write_text(f"x{planted}x")
    (tmp_path / "token").write_text(planted)
    (tmp_path / "token").chmod(0o600)
    with subprocess.Popen([sys.executable, "-c", SLEEP, planted], stdout=subprocess.PIPE) as in_argument:
        assert in_argument.stdout is not None
        in_argument.stdout.readline()  # before that its arguments may not be set up
        scan.argument_lists()
        in_argument.kill()
    scan.files([tmp_path])
    scan.note("an answer", json.dumps({"token": planted}))
    rules = [Allowed("planted", "*/token", ""), Allowed("planted", "*/open", "")]
    leaks = scan.leaks({"planted": planted}, rules)
    assert leaks[:2] == ["planted: an answer", "planted: argv"]
    assert any(leak.endswith("/open") for leak in leaks), "a file that others can read is allowed nowhere"
    assert not any(leak.endswith("/token") for leak in leaks)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another account")
def test_another_account_is_looked_through() -> None:
    """What the account nobody can read of processes and files is seen as that account sees it."""
    planted = "planted-secret-" + os.urandom(8).hex()
    scan = Scan()
    identity = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    with subprocess.Popen(["/bin/sleep", "60"], env={"SECRET": planted}, **identity) as theirs:  # type: ignore[call-overload]
        scan.as_a_stranger()
        theirs.kill()
    assert ("planted", "what nobody can read of processes") in scan.found({"planted": planted})
