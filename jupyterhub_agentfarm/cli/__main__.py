"""``python -m jupyterhub_agentfarm.cli``: the ``agentfarm`` command where it is not on the PATH."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
