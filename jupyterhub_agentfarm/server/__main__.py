"""``python -m jupyterhub_agentfarm.server``: the server, however it is started.

A cold start executes this; a warm one runs it in a process that was forked from one that has imported the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .shortcuts import take


def leave_directory() -> None:
    """Have Python import nothing from the working directory, which is the user's home: as jupyterhub-singleuser."""
    if not sys.flags.safe_path and sys.path and Path(sys.path[0]).resolve() == Path.cwd():
        del sys.path[0]


if __name__ == "__main__":
    leave_directory()
    take()
    from .app import main

    main()
