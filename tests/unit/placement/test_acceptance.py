"""What an operator is promised: even load, hard limits kept, and every GPU to one lease whatever is killed."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import placement_figures as figures

from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.placement import NodeView

SPAWNS = 200


async def test_load_is_evened_out(tmp_path: Path) -> None:
    """200 servers on eight unevenly loaded nodes: none on a node that fails a hard limit, and less uneven than blind.

    At most one slot is between the fullest node and the emptiest, with any weight of `spread`.
    """
    traces = []
    for name, weights in (("plain", {}), ("none", {"spread": 0.0}), ("much", {"spread": 5.0})):
        database = Database(f"sqlite:///{tmp_path}/{name}.sqlite")
        await database.open()
        traces.append(await figures.placed_trace(database, SPAWNS, weights=weights))
        await database.aclose()
    plain = traces[0]
    assert [trace.wrong for trace in traces] == [0, 0, 0]
    assert sum(plain.servers.values()) == SPAWNS
    assert max(trace.imbalance for trace in traces) <= 1
    blind = [figures.blind_trace(figures.at_random(seed), SPAWNS).imbalance for seed in range(20)]
    least = figures.blind_trace(figures.least_count, SPAWNS).imbalance
    assert plain.imbalance < min(*blind, least) / 3


async def test_idle_servers_do_not_gather(tmp_path: Path) -> None:
    """Eighty servers that do nothing go evenly to nodes that are nearly idle, whose loads differ by a core at most.

    Without `spread` most of them would be on a few of the nodes. Where others keep up to half of a node busy, those
    with more room take more, but no node takes more than the busiest one's work and a few.
    """
    traces = []
    nearly_idle = (0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 1.0, 1.2)
    for name, others, weights in (
        ("plain", nearly_idle, {}), ("gathered", nearly_idle, {"spread": 0.0}), ("uneven", figures.UNEVEN_CORES, {}),
    ):  # fmt: skip
        database = Database(f"sqlite:///{tmp_path}/{name}.sqlite")
        await database.open()
        traces.append(await figures.placed_trace(database, 80, others=others, busy=0.02, weights=weights))
        await database.aclose()
    plain, gathered, uneven = ([trace.servers[f"n{number}"] for number in range(8)] for trace in traces)
    assert max(plain) - min(plain) <= 3
    assert max(gathered) - min(gathered) > 20
    assert max(uneven) <= max(figures.UNEVEN_CORES) + 5


async def test_no_gpu_twice_over_a_sigkill(tmp_path: Path) -> None:
    """Fifty ask at once for half as many GPUs, and the process is killed in the middle: no GPU has two leases.

    Those who ask again after the restart get what they had; what others use past the farm is never leased; when
    everything is released, everybody in the line is served.
    """
    url = f"sqlite:///{tmp_path}/farm.sqlite"
    before = await _killed_after(5, url)
    database = Database(url)
    await database.open()
    try:
        book, placement = figures.open_placement(database)
        await book.open()
        known = {lease.owner: lease.id for lease in book.alive()}
        assert set(before) <= set(known.values())
        asked = await figures.ask_all(placement, 50)
        assert {lease.owner: lease.id for lease in asked} | known == {lease.owner: lease.id for lease in asked}
        usable = figures.DEVICES - figures.FOREIGN
        assert [lease.state for lease in book.alive()].count("granted") == usable
        ended: list[Lease] = []
        while book.alive():
            assert figures.collisions(book.alive()) == {}
            holder = next(lease for lease in book.alive() if lease.state == "granted")
            ended.append(await book.release(holder.id, "stopped"))
            await placement.advance()
        assert figures.overlaps(ended) == []
        held = {(lease.node, uuid) for lease in ended for uuid in lease.gpus}
        assert len(ended) == 50
        assert len(held) == usable
        foreign = {gpu.uuid for node in figures.exclusive_farm() for gpu in node.telemetry.gpus if gpu.foreign_pids}
        assert len(foreign) == figures.FOREIGN
        assert not foreign & {uuid for _, uuid in held}
    finally:
        await database.aclose()


async def _killed_after(grants: int, url: str) -> list[str]:
    """Kill a process that grants leases with SIGKILL after some; return the ids that it answered with."""
    environment = os.environ | {"PYTHONPATH": str(Path(figures.__file__).parent)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, figures.__file__, url, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    try:
        lines = [await asyncio.wait_for(process.stdout.readline(), 30) for _ in range(grants)]
    finally:
        process.kill()
        rest, _ = await process.communicate()
    answered = b"".join(lines) + rest
    assert answered.count(b"\n") < 50
    return [line.split()[0].decode() for line in answered.splitlines()]


async def test_a_gpu_in_use_past_the_farm_is_not_offered(database: Database) -> None:
    """Who asks while a process from outside works on the last free GPU waits, and gets it when it is gone."""
    _, placement = figures.open_placement(database)
    leases = await figures.ask_all(placement, figures.DEVICES)
    waiting = [lease for lease in leases if lease.state == "waiting"]
    assert len(waiting) == figures.FOREIGN
    assert "processes from outside the farm use one" in waiting[0].detail
    for each in figures.exclusive_farm():
        assert each.telemetry is not None
        free = tuple(replace(gpu, foreign_pids=()) for gpu in each.telemetry.gpus)
        placement.tell(NodeView(replace(each, telemetry=replace(each.telemetry, gpus=free))))
    await placement.advance()
    again = await figures.ask_all(placement, figures.DEVICES)
    assert {lease.state for lease in again} == {"granted"}
    assert figures.collisions(again) == {}


def test_the_figures_see_what_is_wrong() -> None:
    """Two leases of one GPU are a collision, and an overlap when both ended since; one after the other is none."""
    asked = figures.request(gpus=1)
    one = Lease("1", "ada", "", "running", 1, asked, 0, node="a", gpus=("GPU-1",), granted_at=1)
    two = replace(one, id="2", granted_at=2)
    assert figures.collisions([one, two]) == {("a", "GPU-1"): ["1", "2"]}
    assert figures.collisions([one, replace(two, node="b")]) == {}
    assert figures.overlaps([one, two]) == [("1", "2")]
    assert figures.overlaps([replace(one, state="released", released_at=2), two]) == []
    assert figures.imbalance({"a": 4, "b": 10}, 2) == 3
