"""Where a request goes: filter → score → reserve.

::

    PlacementRequest ──▶ filters: which nodes could take it now, later, never       (:mod:`.filters`, pure)
                    ──▶ scores: which of them best                                  (:mod:`.scores`, pure)
                    ──▶ policy: the choice, its GPUs, its explanation               (:mod:`.policy`, :mod:`.decision`)
                    ──▶ lease in the database, or a place in the waiting line       (:mod:`.placement`, :mod:`.line`)

An index of the nodes (:mod:`.index`) lets the choice be found by asking few of them (:mod:`.search`); it is the one
that asking all would give, and its explanation is made by asking all.

A lease exists in the database before anything is started (:mod:`.leases`, :mod:`.lease_store`). What single owners may
have, beside what the policy lets everybody, is in :mod:`.owner_limits`.
"""

from __future__ import annotations

from .leases import LeaseBook
from .owner_limits import OwnerLimitBook
from .placement import Placement
from .policy import Decision, PlacementPolicy
from .pools import Pools
from .view import NodeView, OwnerUse

__all__ = ["Decision", "LeaseBook", "NodeView", "OwnerLimitBook", "OwnerUse", "Placement", "PlacementPolicy", "Pools"]
