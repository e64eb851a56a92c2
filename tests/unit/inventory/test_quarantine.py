"""Nodes that are refused: told once, counted each time, and out of the way of the others."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest
from ssh_node import ssh_node
from waiting import eventually

from jupyterhub_agentfarm.controller.metrics_page import refusals_text
from jupyterhub_agentfarm.errors import HostKeyRefused, LoginRefused, NodeUnreachable
from jupyterhub_agentfarm.inventory import Database, Inventory, NodeChanged
from jupyterhub_agentfarm.inventory.watch import Event
from jupyterhub_agentfarm.metrics import METRICS, NODE_REFUSALS
from jupyterhub_agentfarm.records import to_json
from jupyterhub_agentfarm.transport import SSHPool


async def test_a_node_with_another_key_is_in_quarantine_until_it_is_the_known_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reason and state say it, one line is logged and one change told for many attempts, and the other node serves."""
    caplog.set_level(logging.ERROR)
    known_hosts, database = tmp_path / "known_hosts", Database(f"sqlite:///{tmp_path / 'd'}")
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    known_hosts.write_text(f"127.0.0.12 {other}")
    async with ssh_node("good") as good, ssh_node("bad", "127.0.0.12") as bad:
        key, specs = bad.spec.host_key, [good.spec, replace(bad.spec, host_key=None)]
        pool = SSHPool(known_hosts=str(known_hosts), max_backoff=0.05)
        inventory = Inventory(nodes=[to_json(spec) for spec in specs], pool=pool)
        changes: list[str] = []

        def follow(event: Event) -> None:
            if isinstance(event, NodeChanged) and event.name == "bad":
                changes.append(event.node.reason)

        inventory.follow(follow)
        await database.open()
        await inventory.open(database)
        try:
            await eventually(lambda: inventory.refused("bad")["host_key"] >= 5, "it is tried again")
            await eventually(lambda: inventory.node("good").eligible, "the other node serves")
            node = inventory.node("bad")
            assert (node.state, node.reason, node.eligible) == ("unreachable", "host_key", False)
            assert changes == ["", "host_key"]
            lines = [record.getMessage() for record in caplog.records if "quarantine" in record.getMessage()]
            assert len(lines) == 1
            assert lines[0].startswith("node bad is in quarantine (host_key): 127.0.0.12 shows another host key")
            assert sum(inventory.refused("good").values()) == 0
            page = refusals_text(["bad", "good"], inventory.refused).splitlines()
            assert page[1] == "# TYPE agentfarm_node_refused_total counter"
            assert int(page[2].removeprefix('agentfarm_node_refused_total{node="bad",reason="host_key"} ')) >= 5
            assert page[3:] == [
                'agentfarm_node_refused_total{node="bad",reason="login_refused"} 0',
                'agentfarm_node_refused_total{node="good",reason="host_key"} 0',
                'agentfarm_node_refused_total{node="good",reason="login_refused"} 0',
            ]
            known_hosts.write_text(f"127.0.0.12 {key}")
            await eventually(lambda: inventory.node("bad").eligible, "it is back")
            assert inventory.node("bad").reason == ""
        finally:
            await inventory.aclose()
            await database.aclose()


def test_every_refusal_has_its_error_and_its_metric() -> None:
    """The reasons that are counted are those of the two errors; what is merely unreachable is not among them."""
    assert set(NODE_REFUSALS) == {HostKeyRefused.reason, LoginRefused.reason}
    assert NodeUnreachable.reason not in NODE_REFUSALS
    assert METRICS["agentfarm_node_refused_total"].labels == ("node", "reason")
