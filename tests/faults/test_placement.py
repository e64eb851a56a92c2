"""Acceptance test 2: uneven nodes, 200 servers; also what of test 3 needs GPUs that can be busy past the farm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import placement_figures as figures

from jupyterhub_agentfarm.inventory.database import Database

SPAWNS = 200


async def test_placement(tmp_path: Path, figure: Callable[..., bool]) -> None:
    """#2: never a node that fails a hard limit; less uneven than choosing at random or by the number of servers."""
    traces = {}
    for name, weights in (("default weights", {}), ("spread = 0", {"spread": 0.0})):
        database = Database(f"sqlite:///{tmp_path}/{name}.sqlite")
        await database.open()
        traces[name] = await figures.placed_trace(database, SPAWNS, weights=weights)
        await database.aclose()
    blind = {
        "random": figures.blind_trace(figures.at_random(1), SPAWNS).imbalance,
        "least count": figures.blind_trace(figures.least_count, SPAWNS).imbalance,
    }
    kept = [figure(2, f"hard limits broken, {name}", trace.wrong, "", 0, "exactly") for name, trace in traces.items()]
    kept += [figure(2, f"imbalance, {name}", trace.imbalance, "slots", 1) for name, trace in traces.items()]
    ours = traces["default weights"].imbalance
    for name, theirs in blind.items():
        kept.append(figure(2, f"imbalance, default weights, beside {name}", ours, "slots", theirs))
    assert all(kept)


async def test_foreign_processes(tmp_path: Path, figure: Callable[..., bool]) -> None:
    """#3: a GPU that a process from outside the farm uses is not leased."""
    database = Database(f"sqlite:///{tmp_path}/farm.sqlite")
    await database.open()
    try:
        _, placement = figures.open_placement(database)
        leases = await figures.ask_all(placement, figures.DEVICES)
    finally:
        await database.aclose()
    foreign = {gpu.uuid for node in figures.exclusive_farm() for gpu in node.telemetry.gpus if gpu.foreign_pids}
    leased = foreign & {uuid for lease in leases for uuid in lease.gpus}
    assert len(foreign) == figures.FOREIGN
    assert figure(3, "GPUs leased that others use past the farm", len(leased), "", 0, "exactly")
