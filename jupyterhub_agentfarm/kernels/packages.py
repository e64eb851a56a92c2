"""Whether the installed packages are still those that were imported."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator

#: Entries of a folder of packages that change when a package is installed, removed or upgraded, or that run at start.
_TELLING = (".dist-info", ".egg-info", ".egg-link", ".pth", "customize.py")

Fingerprint = frozenset[tuple[str, int, int]]


def fingerprint() -> Fingerprint:
    """Return what is installed where this process imports from, a user's own folder included. It takes milliseconds."""
    folders = dict.fromkeys([*sys.path, site.getusersitepackages()] if site.ENABLE_USER_SITE else sys.path)
    return frozenset(entry for folder in folders if folder for entry in _of(folder))


def _of(folder: str) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(_TELLING):
                    state = entry.stat()
                    yield entry.path, state.st_mtime_ns, state.st_ino
        yield folder, 0, 1
    except OSError:
        yield folder, 0, 0
