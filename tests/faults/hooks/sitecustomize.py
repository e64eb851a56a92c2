"""Loaded by every Python that has this folder in PYTHONPATH: the processes of a farm under test, and only those."""

from __future__ import annotations

import os

if os.environ.get("FAULTS_POINTS"):
    import fault_points

    fault_points.install()
