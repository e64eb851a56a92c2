"""Invariants of placement, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from collections import Counter
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from node_records import gpu, node, request

from jupyterhub_agentfarm.errors import PlacementRefused
from jupyterhub_agentfarm.inventory.database import Database
from jupyterhub_agentfarm.models import Lease, Mark, Node
from jupyterhub_agentfarm.placement import LeaseBook, NodeView, Placement, PlacementPolicy

MODELS = ("a100", "t4")


class Farm(RuleBasedStateMachine):
    """Requests, releases, restarts and node changes on a small farm."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.mkdtemp(prefix="af")
        self.database = Database(f"sqlite:///{self.directory}/farm.sqlite")
        self.runner.run(self.database.open())
        self.nodes: dict[str, Node] = {}
        self.owners = 0
        self.restart()

    @initialize(sizes=st.lists(st.lists(st.sampled_from(MODELS), max_size=3), min_size=1, max_size=3))
    def build(self, sizes: list[list[str]]) -> None:
        """Start with some nodes with some GPUs."""
        for index, models in enumerate(sizes):
            name = f"n{index}"
            self.nodes[name] = node(name, *(gpu(f"{name}-{i}", model) for i, model in enumerate(models)))

    @rule(
        gpus=st.integers(0, 3),
        model=st.sampled_from(("", *MODELS)),
        priority=st.integers(-1, 1),
        count=st.integers(1, 3),
    )
    def place(self, gpus: int, model: str, priority: int, count: int) -> None:
        """Ask, several at the same moment."""

        async def ask(owner: int) -> None:
            with suppress(PlacementRefused):
                await self.placement.place(request(f"u{owner}", gpus=gpus, gpu_model=model, priority=priority))

        async def all_at_once() -> None:
            await asyncio.gather(*(ask(self.owners + i) for i in range(count)))

        self.runner.run(all_at_once())
        self.owners += count

    @precondition(lambda self: self.book.alive())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """End a lease, in whatever state, and serve the line."""
        lease = data.draw(st.sampled_from(self.book.alive()))
        self.runner.run(self.book.release(lease.id, "stopped"))
        self.advance()

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def cordon_or_uncordon(self, data: st.DataObject) -> None:
        """Change a node's mark."""
        name = data.draw(st.sampled_from(sorted(self.nodes)))
        mark = Mark("test", 0.0, "root") if self.nodes[name].cordon is None else None
        self.nodes[name] = dataclasses.replace(self.nodes[name], cordon=mark)
        self.advance()

    @rule()
    def advance(self) -> None:
        """Serve the line."""
        self.runner.run(self.placement.advance())

    @rule()
    def restart(self) -> None:
        """Forget memory and load the database."""
        self.book = LeaseBook(self.database)
        self.runner.run(self.book.open())
        self.placement = Placement(PlacementPolicy(), self.book, lambda: map(NodeView, self.nodes.values()))
        self.advance()

    @invariant()
    def no_gpu_twice(self) -> None:
        """No GPU is under two leases, and each is one that was asked for and that the node has."""
        held = Counter((lease.node, uuid) for lease in self.book.alive() for uuid in lease.gpus)
        assert all(count == 1 for count in held.values()), held
        for lease in self.granted():
            assert len(lease.gpus) == lease.request.options.gpus
            assert all(lease.request.options.gpu_model in self.model(lease.node, uuid) for uuid in lease.gpus)

    @invariant()
    def the_line_is_in_order(self) -> None:
        """Positions are 1, 2, 3 … by priority, then by arrival."""
        waiting = sorted(self.book.waiting(), key=lambda lease: lease.position or 0)
        assert [lease.position for lease in waiting] == list(range(1, len(waiting) + 1))
        ranks = [(-lease.request.options.priority, lease.created_at) for lease in waiting]
        assert ranks == sorted(ranks)

    @invariant()
    def the_first_in_line_cannot_be_served(self) -> None:
        """Nobody waits for what is free: the first in line fits on no eligible node."""
        first = min(self.book.waiting(), key=lambda lease: lease.position or 0, default=None)
        if first is None:
            return
        taken = {(lease.node, uuid) for lease in self.granted() for uuid in lease.gpus}
        for each in self.nodes.values():
            assert each.telemetry is not None
            free = [g for g in each.telemetry.gpus if (each.name, g.uuid) not in taken]
            fitting = [g for g in free if first.request.options.gpu_model in g.name]
            assert not each.eligible or len(fitting) < first.request.options.gpus

    def granted(self) -> list[Lease]:
        """Return the leases that hold something."""
        return [lease for lease in self.book.alive() if lease.state != "waiting"]

    def model(self, name: str | None, uuid: str) -> str:
        """Return the model of a GPU of a node."""
        report = self.nodes[name or ""].telemetry
        assert report is not None
        return next(device.name for device in report.gpus if device.uuid == uuid)

    def teardown(self) -> None:
        """Close the database."""
        self.runner.run(self.database.aclose())
        self.runner.close()
        shutil.rmtree(self.directory)


Farm.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestFarm = Farm.TestCase
