"""``python -m jupyterhub_agentfarm.server``."""

from __future__ import annotations

from .app import main

if __name__ == "__main__":
    main()
