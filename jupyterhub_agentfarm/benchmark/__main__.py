"""``python -m jupyterhub_agentfarm.benchmark``: the benchmark service."""

from __future__ import annotations

from .app import BenchmarkApp

if __name__ == "__main__":
    BenchmarkApp.launch_instance()
