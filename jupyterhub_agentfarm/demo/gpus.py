"""What a demo with real GPUs says of those that it found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_GIB = 2**30


def described(telemetry: Mapping[str, Any]) -> str:
    """Return a sentence on the GPUs that a node reports, or on why there are none.

    Parameters
    ----------
    telemetry
        Its newest report, as the controller's API tells it.
    """
    kinds = Counter((gpu["name"], gpu["memory_total_bytes"]) for gpu in telemetry["gpus"])
    if kinds:
        return "GPUs of this machine: " + ", ".join(_kind(*kind, count) for kind, count in kinds.items())
    if telemetry["gpu_health"] == "absent":
        return (
            "This machine has no NVIDIA GPU, or no driver of one: what is run uses the processor. "
            "Without --real-gpus the demo simulates GPUs."
        )
    return (
        f"NVIDIA's driver does not answer ({telemetry['gpu_error'] or telemetry['gpu_health']}): nvidia-smi says more"
    )


def _kind(name: str, memory_bytes: float | None, count: int) -> str:
    memory = "" if memory_bytes is None else f", {memory_bytes / _GIB:.0f} GiB"
    return f"{count} x {name}{memory}"
