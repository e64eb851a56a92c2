"""Which zygote a launch needs, whether its environment is as it was when the zygote was made, and may be trusted."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jupyterhub_agentfarm.kernels.packages import TELLING
from jupyterhub_agentfarm.models import LaunchSpec

from .fixed import carried

#: What launches the farm's server.
SERVER = ("-m", "jupyterhub_agentfarm.server")


@dataclass(frozen=True)
class Environment:
    """What servers that one zygote can be forked for have in common."""

    #: Path of the Python.
    python: str
    #: What it is started with beside the ordinary.
    variables: tuple[tuple[str, str], ...] = ()


def environment_of(spec: LaunchSpec, variables: dict[str, str]) -> Environment | None:
    """Return what a launch's zygote would have, or None: what it starts is not the farm's server.

    Parameters
    ----------
    spec
        The launch.
    variables
        The server's whole environment.
    """
    if spec.command[1:3] != SERVER or spec.socket != "inherit":
        return None
    python = shutil.which(spec.command[0], path=variables.get("PATH", os.defpath))
    return None if python is None else Environment(str(Path(python).absolute()), carried(variables))


def search_path(python: str) -> list[Path]:
    """Return where a Python's packages are, from where it is: what its installation has, and not what runs it."""
    prefixes = [Path(python).parent.parent, Path(os.path.realpath(python)).parent.parent]
    found = [folder for prefix in prefixes for folder in sorted(prefix.glob("lib*/python3*"))]
    packages = [folder / name for folder in found for name in ("site-packages", "dist-packages")]
    return [folder for folder in dict.fromkeys([*found, *packages]) if folder.is_dir()]


def fingerprint(python: str, modules: Iterable[str] = ()) -> str:
    """Return what changes with the packages of a Python, its configuration, and the files of `modules`: milliseconds.

    Parameters
    ----------
    python
        Its path.
    modules
        Files of modules that lie outside, as of packages that are installed from a working copy.
    """
    prefix = Path(python).parent.parent
    seen = hashlib.sha256()
    paths = [python, os.path.realpath(python), f"{prefix}/pyvenv.cfg", *modules]
    for path in (*paths, *_metadata(python), *_configuration(prefix)):
        try:
            found = os.stat(path)  # noqa: PTH116 - hundreds at each start: as objects they take five times as long
        except OSError:
            continue
        seen.update(f"{path}\0{found.st_mtime_ns}\0{found.st_size}\0{found.st_ino}\n".encode())
    return seen.hexdigest()


def _metadata(python: str) -> Iterator[str]:
    for folder in search_path(python):
        yield str(folder)
        if folder.name.endswith("-packages"):
            with os.scandir(folder) as entries:
                yield from sorted(entry.path for entry in entries if entry.name.endswith(TELLING))


def _configuration(prefix: Path) -> Iterator[str]:
    """Yield the files of Jupyter's configuration."""
    for folder in (f"{prefix}/etc/jupyter", "/usr/local/etc/jupyter", "/etc/jupyter"):
        for inside, _, names in os.walk(folder):
            yield inside
            yield from (f"{inside}/{name}" for name in sorted(names))


def why_not_trusted(python: str, files: Iterable[str] = ()) -> str | None:
    """Return why a noded that is root may not import a Python's packages itself; None when it may.

    Parameters
    ----------
    python
        Its path.
    files
        What it imports from elsewhere, as far as is known.
    """
    inside, elsewhere = search_path(python), [*map(Path, files), *_named_elsewhere(python)]
    roots = [Path(python), Path(os.path.realpath(python)), *inside, *elsewhere]
    ways = {folder for root in roots for folder in (root, *root.parents)}
    for path in (*sorted(ways), *(path for root in inside for path in _below(root))):
        if fault := _fault(path):
            return fault
    return None


def _named_elsewhere(python: str) -> Iterator[Path]:
    """Yield the folders that .pth files name."""
    for folder in search_path(python):
        for pth in folder.glob("*.pth"):
            lines = pth.read_text("utf-8", "replace").splitlines()
            yield from (Path(line) for line in lines if line.startswith("/"))


def _below(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        yield from (Path(folder, name) for name in (*folders, *names))


def _fault(path: Path) -> str | None:
    try:
        found = path.stat()
    except OSError:
        return None  # nothing can be imported from it
    if found.st_uid != 0:
        return f"{path} belongs to the account {found.st_uid}"
    if found.st_mode & stat.S_IWOTH and not (found.st_mode & stat.S_ISVTX and stat.S_ISDIR(found.st_mode)):
        return f"everybody may write to {path}"
    if found.st_mode & stat.S_IWGRP and found.st_gid != 0:
        return f"the group {found.st_gid} may write to {path}"
    return None
