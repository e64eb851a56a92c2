"""Whether the installed packages are still those that were imported."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterable, Iterator

#: Entries of a folder of packages that change when a package is installed, removed or upgraded, or that run at start.
TELLING = (".dist-info", ".egg-info", ".egg-link", ".pth", "customize.py")


class Packages:
    """What is installed where this process imports from, a user's own folder included, as it is now.

    Looking takes milliseconds. The folders are those of now, too: packages that are imported later may add folders of
    their own to the search path, as debugpy does with its parts.
    """

    def __init__(self) -> None:
        folders = [*sys.path, site.getusersitepackages()] if site.ENABLE_USER_SITE else sys.path
        self._folders = tuple(dict.fromkeys(folder for folder in folders if folder))
        self._installed = _installed(self._folders)

    def changed(self) -> bool:
        """Return whether a package was installed, removed or upgraded since."""
        return _installed(self._folders) != self._installed


def _installed(folders: Iterable[str]) -> frozenset[tuple[str, int, int]]:
    return frozenset(entry for folder in folders for entry in _of(folder))


def _of(folder: str) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(TELLING):
                    state = entry.stat()
                    yield entry.path, state.st_mtime_ns, state.st_ino
        yield folder, 0, 1
    except OSError:
        yield folder, 0, 0
