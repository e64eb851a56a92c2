"""``python -m jupyterhub_agentfarm.controller``: the controller, as a Hub service or on its own."""

from __future__ import annotations

from .app import main

if __name__ == "__main__":
    main()
