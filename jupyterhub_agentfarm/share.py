"""Where the files that are not code lie: templates, notebooks, suites, unit files.

In an installed wheel they are package data under ``jupyterhub_agentfarm/share``; in a checkout they are the
top-level folders that the wheel is made from.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_IN_CHECKOUT = {
    "templates": "share/templates",
    "systemd": "share/systemd",
    "notebooks": "notebooks",
    "suites": "benchmark/suites",
    "jupyterhub_config.py": "jupyterhub_config.py",
}


def share_path(name: str) -> Path:
    """Return the path of one of the shared folders or files.

    Parameters
    ----------
    name
        ``templates``, ``systemd``, ``notebooks``, ``suites`` or ``jupyterhub_config.py``.
    """
    installed = _PACKAGE / "share" / name
    return installed if installed.exists() else _PACKAGE.parent / _IN_CHECKOUT[name]
