"""``python -m jupyterhub_agentfarm.noded``."""

from __future__ import annotations

from .app import NodedApp

if __name__ == "__main__":
    NodedApp.launch_instance()
