"""Why a start is cold."""

from __future__ import annotations

from collections.abc import Mapping

from jupyterhub_agentfarm.models import ColdReason

from ..isolation.layers import Confined
from .environments import Environment
from .fixed import refused


def why_cold(environment: Environment | None, confined: Confined) -> ColdReason | None:
    """Return why no zygote could start a launch, whatever zygotes there are; None: one could.

    Parameters
    ----------
    environment
        What its zygote would have; None: it starts another program.
    confined
        How it is to be confined.
    """
    if environment is None:
        return "program"
    if confined.sandboxed:
        return "sandbox"
    if confined.placed.outer and not confined.placed.adopting:
        return "limiter"
    return None if refused(confined.environment) is None else "variables"


def differing(reads: Mapping[str, str | None], variables: Mapping[str, str]) -> set[str]:
    """Return the variables that a zygote read while it imported, and that a server has otherwise."""
    return {name for name, value in reads.items() if variables.get(name) != value}
