"""The start of the agents service: what it does not wait for."""

from __future__ import annotations

import subprocess
import sys


def test_the_service_starts_without_what_only_notebooks_need() -> None:
    """The reading of notebooks takes seconds to import, half of the start: the first task imports it, on a thread."""
    code = "import sys, jupyterhub_agentfarm.agents.app; print(*{'nbformat', 'jsonschema'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
