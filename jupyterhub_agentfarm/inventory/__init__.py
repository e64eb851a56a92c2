"""Knowing the nodes: what is declared, what is added at run time, what state each is in.

::

    c.Inventory.nodes ─┐                      NodeLink (one each)
    NodeStore ─────────┴─▶ Inventory ◀── up / down / telemetry / exits ──┘
                              └─▶ watch(): events for placement, pages and metrics
"""

from __future__ import annotations

from .database import Database, metadata
from .inventory import Inventory
from .store import NodeStore
from .watch import EventsMissed, NodeChanged, NodeReady, NodeRemoved, ServerExited, TelemetryArrived, Watch

__all__ = [
    "Database",
    "EventsMissed",
    "Inventory",
    "NodeChanged",
    "NodeReady",
    "NodeRemoved",
    "NodeStore",
    "ServerExited",
    "TelemetryArrived",
    "Watch",
    "metadata",
]
