"""A start whose node is at fault goes on elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from farm_double import FarmDouble
from waiting import eventually

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.models import Lease


def broken(times: int) -> Any:
    """Return an `on_launch` that fails that often."""
    left = [times]

    def on_launch(lease: Lease) -> None:
        if left[0]:
            left[0] -= 1
            raise LaunchFailed(f"cannot execute python3 on node {lease.epoch}: No such file or directory")

    return on_launch


async def test_another_node_is_tried(farm: FarmDouble, user: Any) -> None:
    """The second request avoids the node that failed; the first lease is given back and the viewer is told."""
    farm.on_launch = broken(1)
    await user.spawn()
    first, second = farm.leases.values()
    assert (first.state, first.request.avoid) == ("released", ())
    assert (second.state, second.request.avoid) == ("running", ("n1",))
    told = [event["message"] async for event in user.spawner.progress()]
    assert any("on node 1: No such file or directory. Trying another node" in message for message in told)
    assert user.spawner.lease_id == second.id
    assert await user.spawner.poll() is None


async def test_only_so_many_nodes_are_tried(farm: FarmDouble, user: Any) -> None:
    """After `max_tries` nodes the start fails with the first node's error, and nothing is held."""
    farm.on_launch = broken(100)
    user.spawner.max_tries = 2
    with pytest.raises(Exception, match="on node 1: No such file"):
        await user.spawn()
    await eventually(lambda: not any(lease.alive for lease in farm.leases.values()), "every lease is given back")
    assert len(farm.leases) == 2


async def test_no_other_node_is_to_be_had(farm: FarmDouble, user: Any) -> None:
    """When no other node could take it, the error is the failed node's, not that of the search."""

    def fail_and_refuse(lease: Lease) -> None:
        farm.refusals = {"n1": "could not start the server a moment ago"}
        raise LaunchFailed("no space left on device")

    farm.on_launch = fail_and_refuse
    with pytest.raises(Exception, match="no space left on device"):
        await user.spawn()


async def test_a_node_that_was_asked_for_is_not_replaced(farm: FarmDouble, user: Any) -> None:
    """Who names a node gets that node or its error."""
    farm.on_launch = broken(1)
    with pytest.raises(Exception, match="No such file"):
        await user.spawn(options={"node": "n1"})
    assert len(farm.leases) == 1
