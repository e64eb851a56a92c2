"""Device nodes of NVIDIA GPUs.

Every GPU has one, ``/dev/nvidiaN``; N is its minor number, which NVML knows. All GPUs share the control devices, which
give nothing without the node of a GPU. A MIG device is reached through its GPU's node: on one GPU the kernel does not
keep MIG devices apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

#: Major number of /dev/nvidiaN and /dev/nvidiactl.
NVIDIA_MAJOR = 195
#: One more than the highest minor number of a GPU that is kept away; 255 and 254 are control devices.
MAX_GPUS = 64
#: What a program needs beside the node of its GPU, in /dev.
CONTROL_DEVICES = (
    "nvidiactl",
    "nvidia-uvm",
    "nvidia-uvm-tools",
    "nvidia-modeset",
    "nvidia-caps",
)


def is_simulated(gpu: str) -> bool:
    """Return whether a UUID is that of a GPU that does not exist."""
    return gpu.startswith("GPU-sim-")


def gpu_nodes(minors: Mapping[str, int], folder: Path = Path("/dev")) -> list[Path]:
    """Return the device nodes that leased GPUs need, those of them that exist; none for no GPU."""
    if not minors:
        return []
    names = [*CONTROL_DEVICES, *(f"nvidia{minor}" for minor in sorted(set(minors.values())))]
    return [folder / name for name in names if (folder / name).exists()]


def denied_minors(leased: Iterable[int]) -> list[int]:
    """Return the minor numbers of GPUs that are not leased, existing or not."""
    held = set(leased)
    return [minor for minor in range(MAX_GPUS) if minor not in held]
