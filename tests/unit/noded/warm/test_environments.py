"""Which zygote a launch needs, when its environment has changed, and whether root may import it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jupyterhub_agentfarm.models import LaunchSpec
from jupyterhub_agentfarm.noded.warm import making
from jupyterhub_agentfarm.noded.warm.choosing import differing
from jupyterhub_agentfarm.noded.warm.environments import Environment, environment_of, fingerprint, why_not_trusted
from jupyterhub_agentfarm.noded.warm.fixed import FIXED, carried, refused
from jupyterhub_agentfarm.noded.warm.making import make

SERVER = ("-m", "jupyterhub_agentfarm.server")


def made(folder: Path) -> Path:
    """Make something like a virtual environment and return its Python."""
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.joinpath("tool-1.0.dist-info").mkdir(parents=True)
    packages.joinpath("tool.py").write_text("")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "pyvenv.cfg").write_text("")
    (folder / "etc" / "jupyter").mkdir(parents=True)
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    "change",
    ["lib/python3.11/site-packages/tool-2.0.dist-info", "lib/python3.11/site-packages/more.pth", "etc/jupyter/a.json"],
)
def test_a_change_of_packages_or_configuration_is_seen(tmp_path: Path, change: str) -> None:
    """An upgrade, a .pth file, a file of Jupyter's configuration: each changes the fingerprint; nothing else does."""
    python = str(made(tmp_path))
    before = fingerprint(python)
    time.sleep(0.02)
    (tmp_path / "notes.txt").write_text("")
    assert fingerprint(python) == before
    (tmp_path / change).write_text("{}")
    changed = fingerprint(python)
    assert changed != before
    (tmp_path / change).write_text("{ }")
    assert change.endswith("info") or fingerprint(python) != changed


def test_a_working_copy_is_seen(tmp_path: Path) -> None:
    """Files of packages that are installed from elsewhere count as well."""
    python, module = str(made(tmp_path / "venv")), tmp_path / "mine.py"
    module.write_text("a = 1")
    before = fingerprint(python, [str(module)])
    module.write_text("a = 11")
    assert fingerprint(python, [str(module)]) != before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_imports_nothing_that_others_may_change(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One file, folder or parent of another account, or open to writers, is enough."""
    folder = Path("/opt") / f"agentfarm-{os.getpid()}"
    try:
        python = str(made(folder))
        packages = folder / "lib" / "python3.11" / "site-packages"
        assert "tool" not in str(why_not_trusted(python))
        os.chown(packages / "tool.py", 65534, 65534)
        assert why_not_trusted(python) == f"{packages / 'tool.py'} belongs to the account 65534"
        os.chown(packages / "tool.py", 0, 0)
        packages.chmod(0o777)
        assert why_not_trusted(python) == f"everybody may write to {packages}"
        packages.chmod(0o755)
        os.chown(folder, 65534, 0)
        assert why_not_trusted(python) == f"{folder} belongs to the account 65534"
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()


def spec(*command: str, **changes: object) -> LaunchSpec:
    """Return a launch."""
    return LaunchSpec("a", 1, command, {}, (), "127.0.0.1", "/", **changes)  # type: ignore[arg-type]


def test_servers_with_the_same_start_share_a_zygote() -> None:
    """The Python and what can only be given at its start make the difference, and no more."""
    found = environment_of(spec(sys.executable, *SERVER, "--a"), {"HOME": "/a", "TZ": "UTC"})
    assert found == environment_of(spec(sys.executable, *SERVER), {"HOME": "/b", "TZ": "UTC", "TOKEN": "x"})
    assert found == Environment(sys.executable, (("TZ", "UTC"),))
    assert environment_of(spec("no-such-python", *SERVER), {}) is None
    assert environment_of(spec(sys.executable, "-m", "jupyterhub.singleuser"), {}) is None
    assert environment_of(spec(sys.executable, *SERVER, socket="port"), {}) is None


def test_what_only_a_new_program_heeds() -> None:
    """What could have root's zygote load a library is never given to it; what is harmless is."""
    for name in ("LD_PRELOAD", "PYTHONPATH", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "OPENSSL_CONF"):
        assert refused({name: "x"}) == name
        assert carried({name: "x"}) == ()
    for name in ("LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS", "AGENTFARM_SHORTCUTS"):
        assert refused({name: "x"}) is None
        assert carried({name: "x"}) == ((name, "x"),)
        assert FIXED.fullmatch(name)
    assert not FIXED.fullmatch("HOME")


@pytest.mark.timeout(240)
async def test_a_node_without_a_locale(tmp_path: Path) -> None:
    """There Python chooses a character set by itself and writes it down: no variable that a server would lack."""
    zygote = await make(Environment(sys.executable), (), tmp_path)
    try:
        assert differing(zygote.reads, {}) & {"LC_CTYPE", "LC_ALL", "LANG"} == set()
    finally:
        zygote.close()


async def test_what_only_kernels_need_does_not_keep_servers_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When one module of it cannot be imported before a fork, all of it is left to the kernels."""
    kernels = ["xmlrpc.client", "xmlrpc.server", "plistlib"]  # each imports the late one

    async def surveyed(*_: Any) -> dict[str, Any]:
        late = ["xml.parsers.expat"]
        return {"modules": ["fractions", *kernels], "for_kernels": kernels, "late": late, "absent": [], "files": []}

    async def trusted(*_: Any) -> None:
        pass

    monkeypatch.setattr(making, "_MOST_BLAMED", 2)
    monkeypatch.setattr(making, "surveyed", surveyed)
    monkeypatch.setattr(making, "_check_trusted", trusted)
    zygote = await make(Environment(sys.executable), (), tmp_path)
    assert zygote.process.poll() is None
    await asyncio.to_thread(zygote.close)
