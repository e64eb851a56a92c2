"""Owner limits: what one owner may have, beside what the policy lets everybody.

The smaller of both counts. They are looked up at every decision, not when a request arrives, so that a limit that is
set while requests wait holds for them too. What runs is never stopped for one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from ..errors import PlacementRefused
from ..models import OwnerLimits, PlacementRequest

N = TypeVar("N", int, float)

#: Those of an owner who has none.
NO_OWNER_LIMITS = OwnerLimits()


class OwnerLimitBook:
    """The limits of each owner who has some."""

    def __init__(self) -> None:
        self._limits: dict[str, OwnerLimits] = {}
        #: Grows with every change.
        self.revision = 0

    def __bool__(self) -> bool:
        """Whether anybody has limits."""
        return bool(self._limits)

    def of(self, owner: str) -> OwnerLimits:
        """Return an owner's limits; of one without any, a record that limits nothing."""
        return self._limits.get(owner, NO_OWNER_LIMITS)

    def owners(self) -> list[str]:
        """Return who has limits, by name."""
        return sorted(self._limits)

    def put(self, owner: str, limits: OwnerLimits) -> None:
        """Set an owner's limits in place of those before; a record that limits nothing ends them."""
        self._limits.pop(owner, None)
        if limits != NO_OWNER_LIMITS:
            self._limits[owner] = limits
        self.revision += 1

    @property
    def limits_gpu_hours(self) -> bool:
        """Whether anybody's GPU-hours are limited."""
        return any(limits.gpu_hours is not None for limits in self._limits.values())

    def applied(self, request: PlacementRequest) -> PlacementRequest:
        """Return a request with the labels that its owner's nodes must have.

        Raises
        ------
        PlacementRefused
            It asks for another value of such a label, or for a kernel that the owner may not use.
        """
        limits = self._limits.get(request.owner)
        if limits is None:
            return request
        _check_kernel(request, limits)
        _check_labels(request, limits)
        if not limits.labels:
            return request
        return replace(request, options=replace(request.options, labels={**request.options.labels, **limits.labels}))


def smaller(mine: N | None, others: N | None) -> N | None:
    """Return the smaller of two limits; None is no limit."""
    known = [limit for limit in (mine, others) if limit is not None]
    return min(known) if known else None


def _check_kernel(request: PlacementRequest, limits: OwnerLimits) -> None:
    wanted, allowed = request.options.kernel, limits.kernels
    if wanted and allowed and wanted.lower() not in {name.lower() for name in allowed}:
        listed = ", ".join(sorted(allowed))
        raise PlacementRefused({}, f"{request.owner} may not use the kernel {wanted}, only {listed}.")


def _check_labels(request: PlacementRequest, limits: OwnerLimits) -> None:
    asked = request.options.labels
    against = sorted(key for key, value in limits.labels.items() if asked.get(key, value) != value)
    if against:
        only = ", ".join(f"{key}={limits.labels[key]}" for key in against)
        other = ", ".join(f"{key}={asked[key]}" for key in against)
        raise PlacementRefused({}, f"{request.owner} may use nodes with {only} only: {other} cannot be asked for.")
