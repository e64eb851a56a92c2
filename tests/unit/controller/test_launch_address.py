"""Where servers of a node without an `address` listen."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from controllers import controller, order
from node_records import request
from ssh_node import ssh_node
from waiting import eventually


async def test_servers_listen_where_ssh_reaches_the_node(tmp_path: Path) -> None:
    """A node added by a name is told the address behind it; what the node itself takes the name for is no matter."""
    async with ssh_node("named", "127.0.0.31", sys.executable, simulated_gpus=1) as node:
        # A name to both sides: Python takes it for no literal, and the resolver answers 127.0.0.31.
        node.spec = replace(node.spec, host="127.31", address=None)
        async with controller(tmp_path, node) as farm:

            async def eligible() -> bool:
                (view,) = await farm.client.nodes()
                return bool(view["eligible"] and view["telemetry"]) and farm.app.farm._reconciler.is_reconciled("named")

            await eventually(eligible, "the node is ready", timeout=30)
            lease = await farm.client.launch((await farm.client.place(request(gpus=1))).id, order())
            assert lease.url is not None
            assert lease.url.startswith("http://127.0.0.31:")
            await farm.client.release(lease.id, grace_seconds=0)
