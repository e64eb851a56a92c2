"""``python -m jupyterhub_agentfarm.agents``: the agents service."""

from __future__ import annotations

from .app import AgentsApp

if __name__ == "__main__":
    AgentsApp.launch_instance()
