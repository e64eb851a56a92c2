"""Accounts of the node for tests that run as root, and a noded that uses them."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

#: A Python that every account of the machine can execute.
PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Pair:
    """Two Hub users whose accounts are called as they are."""

    ada: str
    bob: str

    def uid(self, name: str) -> int:
        """Return the user id of one."""
        return pwd.getpwnam(name).pw_uid


def remove_account(name: str) -> None:
    """Remove an account with its home."""
    subprocess.run(["/usr/sbin/userdel", "--remove", name], capture_output=True, check=False, timeout=30)


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Two accounts with homes of mode 0700; only root can make them."""
    if os.geteuid() != 0:
        pytest.skip("accounts: only root can make accounts and switch to them")
    mark = secrets.token_hex(3)
    names = Pair(f"af{mark}-ada", f"af{mark}-bob")
    try:
        for name in (names.ada, names.bob):
            subprocess.run(
                ["/usr/sbin/useradd", "--create-home", "--key", "HOME_MODE=0700", "--shell", "/bin/bash", name],
                check=True,
                timeout=30,
            )
        yield names
    finally:
        remove_account(names.ada)
        remove_account(names.bob)
