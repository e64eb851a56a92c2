"""The inventory over real links, and its state machine with a clock of the test's."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from noded_stand_in import FACTS, status, telemetry
from ssh_node import ssh_node
from waiting import eventually

from jupyterhub_agentfarm.errors import ConfigError, ConflictError, InvalidField, NodeUnreachable, NotFoundError
from jupyterhub_agentfarm.inventory import Database, Inventory, NodeChanged, NodeReady, NodeRemoved, ServerExited, Watch
from jupyterhub_agentfarm.models import LaunchSpec, Mark, NodeFacts, NodeSpec, ServerStatus, Telemetry
from jupyterhub_agentfarm.records import from_json, to_json
from jupyterhub_agentfarm.transport import SSHPool

NOWHERE = NodeSpec("n1", "127.0.0.1", port=1)
FACT = from_json(NodeFacts, FACTS | {"time": 995.0})
REPORT = from_json(Telemetry, telemetry() | {"time": 999.0})
ENDED = from_json(ServerStatus, status({"lease": "l1", "epoch": 1, "address": "a", "gpus": []}) | {"state": "exited"})


def make(nodes: list[NodeSpec] | None = None, **traits: Any) -> Inventory:
    """An inventory whose clock stands at 1000 and whose links retry quickly, or hardly."""
    pool = SSHPool(max_backoff=traits.pop("max_backoff", 60), keepalive_interval=0.5, keepalive_count=2)
    entries = [to_json(spec) for spec in nodes or []]
    return Inventory(clock=traits.pop("clock", lambda: 1000.0), nodes=entries, pool=pool, **traits)


@asynccontextmanager
async def opened(inventory: Inventory, path: Path) -> AsyncIterator[Inventory]:
    """An inventory that is open on a database file, and both closed at the end."""
    database = Database(f"sqlite:///{path}")
    await database.open()
    try:
        await inventory.open(database)
        yield inventory
    finally:
        await inventory.aclose()
        await database.aclose()


async def seen(watch: Watch, wanted: type[Any]) -> Any:
    """Return the next event of a kind."""
    async with asyncio.timeout(15):
        async for event in watch:
            if isinstance(event, wanted):
                return event
    raise AssertionError(f"the watch ended without a {wanted.__name__}")


async def test_a_real_node_becomes_ready_reports_and_is_lost(tmp_path: Path) -> None:
    """Over real SSH: ready, with reports; exits pass through; without sshd unreachable, then down; then ready again."""
    async with (
        ssh_node() as node,
        opened(make([node.spec], max_backoff=0.2, down_after=0.5), tmp_path / "d") as inventory,
    ):
        with inventory.watch() as watch:
            assert inventory.node("n1").state == "unreachable"
            assert (await seen(watch, NodeReady)).servers == ()
            await eventually(lambda: inventory.node("n1").telemetry, "telemetry arrives")
            assert inventory.node("n1").eligible
            await inventory.link("n1").client.launch(LaunchSpec("dies", 1, ("true",), {}, (), "a", "/"))
            assert (await seen(watch, ServerExited)).status.lease == "dies"
            await node.stop(signal.SIGKILL)
            states = []
            while "down" not in states:
                states.append((await seen(watch, NodeChanged)).node.state)
            assert states[0] == "unreachable"
            await node.start()
            await seen(watch, NodeReady)
            assert inventory.node("n1").state == "ready"


async def test_states_follow_the_link(tmp_path: Path) -> None:
    """Unreachable → ready → unreachable → down → ready, each with its reason and the time of the change."""
    now = 1000.0
    inventory = make([NOWHERE], down_after=0.1, clock=lambda: now)
    async with opened(inventory, tmp_path / "d"):
        await eventually(lambda: "cannot be reached" in inventory.node("n1").detail, "the first attempt fails")
        await inventory.link("n1").aclose()  # From here on the test says what its link would.
        assert (inventory.node("n1").state, inventory.node("n1").since_at) == ("unreachable", 1000.0)
        await eventually(lambda: inventory.node("n1").state == "down", "never reached is down too")
        now = 1010.0
        inventory.link_up("n1", FACT, ())
        node = inventory.node("n1")
        assert (node.state, node.since_at, node.facts) == ("ready", 1010.0, FACT)
        assert node.clock_skew_seconds == 15
        now = 1020.0
        inventory.link_down("n1", NodeUnreachable("n1", "cut"))
        inventory.link_down("n1", NodeUnreachable("n1", "still cut"))
        node = inventory.node("n1")
        assert (node.state, node.detail, node.since_at) == ("unreachable", "still cut", 1020.0)
        assert not node.eligible
        now = 1021.0
        await eventually(lambda: inventory.node("n1").state == "down", "down after down_after")
        assert (inventory.node("n1").since_at, inventory.node("n1").detail) == (1021.0, "still cut")
        inventory.link_down("n1", NodeUnreachable("n1", "refused"))
        assert (inventory.node("n1").state, inventory.node("n1").detail) == ("down", "refused")


async def test_a_node_that_comes_back_in_time_is_not_down(tmp_path: Path) -> None:
    """A link that is up again before `down_after` stops the timer."""
    async with opened(make([NOWHERE], down_after=0.05), tmp_path / "d") as inventory:
        await inventory.link("n1").aclose()
        inventory.link_up("n1", FACT, ())
        inventory.link_down("n1", NodeUnreachable("n1", "cut"))
        inventory.link_up("n1", FACT, ())
        with inventory.watch() as watch, pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(watch)
        assert inventory.node("n1").state == "ready"


async def test_telemetry_is_kept_with_its_age_and_skew(tmp_path: Path) -> None:
    """A report is fresh until `stale_after`; the difference of the clocks is in the record."""
    async with opened(make([NOWHERE], stale_after=10), tmp_path / "d") as inventory:
        assert not inventory.is_fresh(inventory.node("n1"), 1000)
        inventory.telemetry("n1", REPORT)
        node = inventory.node("n1")
        assert (node.reported_at, node.clock_skew_seconds) == (1000.0, 1.0)
        assert inventory.is_fresh(node, 1010)
        assert not inventory.is_fresh(node, 1010.1)


async def test_cordon_and_drain_outlast_a_restart(tmp_path: Path) -> None:
    """Marks are kept in the database, by name, for nodes of the config too; uncordon ends both for good."""
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        await inventory.link("n1").aclose()
        inventory.link_up("n1", FACT, ())
        assert (await inventory.cordon("n1", "fan", "ada")).status == "cordoned"
        assert (await inventory.cordon("n1", "disk", "bob")).cordon.reason == "disk"  # type: ignore[union-attr]
        assert (await inventory.drain("n1", "move", "ada", 2000.0)).status == "draining"
        assert not inventory.node("n1").eligible
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        node = inventory.node("n1")
        assert node.cordon is not None
        assert (node.cordon.reason, node.cordon.by, node.cordon.at) == ("disk", "bob", 1000.0)
        assert node.drain is not None
        assert node.drain.deadline_at == 2000.0
        await inventory.uncordon("n1")
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        assert (inventory.node("n1").cordon, inventory.node("n1").drain) == (None, None)


async def test_a_node_is_kept_for_an_owner(tmp_path: Path) -> None:
    """What keeps a node for an owner outlasts restarts, is refused where an admin marked it, and ends no other mark."""
    kept = Mark("run 7", 1000.0, "benchmark", 2000.0, kept_for="benchmark")
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        await inventory.link("n1").aclose()
        inventory.link_up("n1", FACT, ())
        assert not (await inventory.keep("n1", kept)).eligible
        assert (await inventory.keep("n1", replace(kept, reason="run 8"))).drain == replace(kept, reason="run 8")
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        assert inventory.node("n1").drain == replace(kept, reason="run 8")
        await inventory.cordon("n1", "fan", "ada")
        assert (await inventory.give_back("n1", "somebody")).drain is not None
        node = await inventory.give_back("n1", "benchmark")
        assert (node.drain, node.cordon and node.cordon.reason) == (None, "fan")
        with pytest.raises(ConflictError, match=r"node n1 was \w+ by ada: fan"):
            await inventory.keep("n1", kept)
        await inventory.drain("n1", "move", "ada")
        assert (await inventory.give_back("n1", "benchmark")).drain is not None
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        assert inventory.node("n1").drain is not None


async def test_added_nodes_outlast_a_restart_and_can_be_removed(tmp_path: Path) -> None:
    """A node added at run time is there after a restart with every field; removed, it and its marks are gone."""
    spec = replace(NOWHERE, name="n2", port=2, labels={"room": "b"}, port_range=(40000, 40001))
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        with inventory.watch() as watch:
            assert (await inventory.add(spec, "ada")).origin == "added"
            while (await seen(watch, NodeChanged)).name != "n2":
                pass
        await inventory.cordon("n2", "new", "ada")
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        assert inventory.node("n2").spec == spec
        assert inventory.node("n2").cordon is not None
        link = inventory.link("n2")
        with inventory.watch() as watch:
            await inventory.remove("n2")
            assert await seen(watch, NodeRemoved) == NodeRemoved("n2")
        with pytest.raises(NodeUnreachable, match="closed"):
            await link.run(["true"])
        assert [node.name for node in inventory.all_nodes()] == ["n1"]
        await inventory.add(spec, "ada")
        assert inventory.node("n2").cordon is None


async def test_what_cannot_be_done_says_why(tmp_path: Path) -> None:
    """Duplicates, nodes of the config, unknown names and bad keys are refused with a sentence; nothing is kept."""
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        with pytest.raises(ConflictError, match="already"):
            await inventory.add(replace(NOWHERE, port=2), "ada")
        with pytest.raises(ConflictError, match="as node n1"):
            await inventory.add(replace(NOWHERE, name="n2"), "ada")
        with pytest.raises(InvalidField, match="host_key"):
            await inventory.add(replace(NOWHERE, name="n2", port=2, host_key="x"), "ada")
        with pytest.raises(ConflictError, match=r"c\.Inventory\.nodes"):
            await inventory.remove("n1")
        with pytest.raises(NotFoundError, match="the nodes are: n1"):
            await inventory.drain("n9", "why", "ada")
        assert [node.name for node in inventory.all_nodes()] == ["n1"]
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        assert [node.name for node in inventory.all_nodes()] == ["n1"]


async def test_two_admins_add_one_name_at_once(tmp_path: Path) -> None:
    """Of two additions of one name at the same moment one succeeds and one is a conflict."""
    async with opened(make(), tmp_path / "d") as inventory:
        got = await asyncio.gather(
            *(inventory.add(replace(NOWHERE, port=port), "ada") for port in (1, 2)), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in got) == ["ConflictError", "Node"]


async def test_a_second_process_that_added_the_name_first_is_a_conflict(tmp_path: Path) -> None:
    """Two controllers on one database: the second addition of a name is a conflict, not a fault."""
    async with opened(make(), tmp_path / "d") as one, opened(make(), tmp_path / "d") as two:
        await one.add(NOWHERE, "ada")
        with pytest.raises(ConflictError, match="already"):
            await two.add(NOWHERE, "bob")


async def test_the_config_counts_when_a_node_is_in_both(tmp_path: Path) -> None:
    """A node that was added and is declared later is the declared one."""
    async with opened(make(), tmp_path / "d") as inventory:
        await inventory.add(replace(NOWHERE, port=2), "ada")
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        assert (inventory.node("n1").spec.port, inventory.node("n1").origin) == (1, "config")


async def test_hosts_that_clash_are_a_config_error(tmp_path: Path) -> None:
    """A host that is listed twice is refused when the inventory is opened, by its index."""
    with pytest.raises(ConfigError, match=r"Inventory\.remote_hosts\[1\]"):
        async with opened(make(remote_hosts=["h", "h"]), tmp_path / "d"):
            pass


async def test_a_refused_host_key_is_the_nodes_reason(tmp_path: Path) -> None:
    """A node with another host key is unreachable and says so, while others work."""
    async with ssh_node("good") as good, ssh_node("bad", "127.0.0.12") as bad:
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        nodes = [good.spec, replace(bad.spec, host_key=" ".join(other.split()[:2]))]
        async with opened(make(nodes), tmp_path / "d") as inventory:
            await eventually(lambda: inventory.node("good").state == "ready", "the good one is ready")
            await eventually(lambda: "another host key" in inventory.node("bad").detail, "the bad one says why")
            assert inventory.node("bad").state == "unreachable"


async def test_close_may_be_repeated_and_ends_watches(tmp_path: Path) -> None:
    """Closing twice is one close; watches end, also those begun later."""
    async with opened(make([NOWHERE]), tmp_path / "d") as inventory:
        watch = inventory.watch()
        await inventory.aclose()
        await inventory.aclose()
        async with asyncio.timeout(5):
            assert [event async for event in inventory.watch()] == []
            assert not [event async for event in watch if not isinstance(event, NodeChanged)]
        inventory.server_exited("n1", ENDED)
