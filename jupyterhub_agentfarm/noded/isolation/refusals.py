"""One sentence for each layer that a launch chose and this node cannot give."""

from __future__ import annotations

from jupyterhub_agentfarm.errors import LaunchFailed

from ..listening import failed

_OPTIONS = {
    "memory_bytes": "memory (Spawner.mem_limit)",
    "cpus": "cores (Spawner.cpu_limit)",
    "processes": "processes (AgentFarmSpawner.process_limit)",
}


def no_limit(field: str, why: str) -> LaunchFailed:
    """Return the error for a field of `ResourceLimits` that cannot be enforced here, and why."""
    what = _OPTIONS[field]
    return failed(f"the limit of {what} cannot be enforced on this node, because {why}; take the limit away or mend it")


def no_sandbox(sandbox: str, why: str) -> LaunchFailed:
    """Return the error for a sandbox that is not to be had here, and why."""
    return failed(f"the option isolation.sandbox wants {sandbox}, which this node cannot give: {why}")


def no_project(project: str, why: str) -> LaunchFailed:
    """Return the error for a project whose workspace is not to be had here, and why."""
    return failed(f"the workspace of the project {project} cannot be used on this node: {why}")


def no_device(gpu: str) -> LaunchFailed:
    """Return the error for a GPU whose device node nobody knows."""
    return failed(f"NVML does not say which device node {gpu} has, so that no server can be kept to it: see nvidia-smi")
