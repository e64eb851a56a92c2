"""The home that a sandboxed server sees at its account's usual place.

Where servers share noded's account, each owner's home is a directory of its own, ``agentfarm-homes/OWNER`` in the
account's home: the real one holds noded's socket, its records and the keys of all servers.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from ..listening import failed
from .layers import Launch

#: Where homes lie when servers share an account, in the account's home.
HOMES = "agentfarm-homes"


def home_of(launch: Launch) -> Path:
    """Return the directory that is the server's home; make it when servers share an account.

    Raises
    ------
    LaunchFailed
        The owner's name can be no directory's.
    """
    home = Path(launch.account.home)
    if not launch.account.own:
        return home
    name = urllib.parse.quote(launch.spec.owner, safe="").replace(".", "%2E")
    if not 0 < len(name) < 256:
        raise failed(f"the Hub user {launch.spec.owner[:64]!r} can have no home in a sandbox; set isolation.account")
    folder = home / HOMES / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
