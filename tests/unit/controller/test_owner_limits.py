"""Owner limits at the controller: who may set and see them, that they last, and that they hold at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from controllers import Controller, controller
from hub_double import HubDouble, hub_double
from node_records import gpu, request, telemetry

from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.controller.farm_handler import LEASES_MANAGE, LEASES_READ, LIMITS_MANAGE
from jupyterhub_agentfarm.errors import AgentFarmError, InvalidField, PlacementRefused
from jupyterhub_agentfarm.models import NodeSpec, OwnerLimits
from jupyterhub_agentfarm.records import to_json

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
LIMITS = OwnerLimits(1, 1, 4.5, {"room": "b"}, ("python3",))
#: Names that Hub users may have, and that a path must carry unharmed.
NAMES = ("helper", "ada@example.org", "a/b c%2F", "émile")


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HubDouble]:
    """A Hub's answers, and its environment."""
    async with hub_double() as double:
        for name, value in double.environment.items():
            monkeypatch.setenv(name, value)
        yield double


def farm_in(directory: Path) -> AbstractAsyncContextManager[Controller]:
    """Return a controller whose one node never answers."""
    spec = NodeSpec(name="a", host="127.0.0.1", port=1, host_key=KEY, labels={"room": "b"})
    return controller(directory, config={"Inventory": {"nodes": [to_json(spec)]}})


async def made_ready(farm: Controller) -> None:
    """Make the node look ready, with two GPUs."""
    entry = farm.app.farm.inventory._entries["a"]
    await entry.link.aclose()
    devices = telemetry(gpu("GPU-a"), gpu("GPU-b"))
    entry.node = replace(entry.node, state="ready", detail="connected", telemetry=devices, reported_at=2e10)
    farm.app.farm._reconciler._reconciled.add("a")


async def test_they_last(tmp_path: Path, hub: HubDouble) -> None:
    """They are there after a restart, under any name that a user may have; DELETE ends them, also a second time."""
    async with farm_in(tmp_path) as farm:
        for name in NAMES:
            assert await farm.client.owner_limits(name) == OwnerLimits()
            assert await farm.client.set_owner_limits(name, LIMITS) == LIMITS
    async with farm_in(tmp_path) as farm:
        assert [await farm.client.owner_limits(name) for name in NAMES] == [LIMITS] * len(NAMES)
        for _ in range(2):
            await farm.client.drop_owner_limits(NAMES[0])
        await farm.client.set_owner_limits(NAMES[1], OwnerLimits())
        await farm.client.set_owner_limits(NAMES[2], OwnerLimits(servers=0))
    async with farm_in(tmp_path) as farm:
        found = [await farm.client.owner_limits(name) for name in NAMES]
        assert found == [OwnerLimits(), OwnerLimits(), OwnerLimits(servers=0), LIMITS]


async def test_they_hold_at_once(tmp_path: Path, hub: HubDouble) -> None:
    """What waits for a limit is granted when it is raised; what is asked for is refused when it is lowered."""
    async with farm_in(tmp_path) as farm:
        await made_ready(farm)
        await farm.client.set_owner_limits("helper", OwnerLimits(servers=1))
        await farm.client.place(request("helper", "1"))
        waits = await farm.client.place(request("helper", "2"))
        assert (waits.state, waits.detail) == ("waiting", "a: helper may have 1 server and has 1")
        await farm.client.set_owner_limits("helper", OwnerLimits(servers=2))
        assert (await farm.client.lease(waits.id)).state == "granted"
        await farm.client.set_owner_limits("helper", OwnerLimits(kernels=("python3",), labels={"room": "b"}))
        with pytest.raises(PlacementRefused, match="helper may not use the kernel ir, only python3"):
            await farm.client.place(request("helper", "3", kernel="ir"))
        with pytest.raises(PlacementRefused, match="helper may use nodes with room=b only: room=c cannot be asked"):
            await farm.client.place(request("helper", "3", labels={"room": "c"}))


async def test_they_are_in_the_usage(tmp_path: Path, hub: HubDouble) -> None:
    """Each owner's line shows the smaller limits and the owner's own, also of one who has used nothing yet."""
    async with farm_in(tmp_path) as farm:
        farm.app.farm.policy.max_gpus_per_owner = 1
        await farm.client.set_owner_limits("helper", OwnerLimits(3, 2, 4.5))
        (line,) = (await farm.client.usage())["usage"]
        assert (line["owner"], line["servers"], line["gpus"], line["gpu_seconds"]) == ("helper", 0, 0, 0)
        assert (line["max_servers"], line["max_gpus"], line["max_gpu_seconds"]) == (3, 1, 4.5 * 3600)
        assert line["own_limits"] == to_json(OwnerLimits(3, 2, 4.5))


async def test_who_may(tmp_path: Path, hub: HubDouble) -> None:
    """Setting takes the scope; who reads leases, and the owner, may look; a service of the owner's name may not."""
    async with farm_in(tmp_path) as farm:

        def client(name: str, *scopes: str, kind: str = "user") -> FarmClient:
            return FarmClient(runtime_dir=farm.app.runtime_dir, token=hub.token(name, *scopes, kind=kind))

        admin, reader = client("root", LIMITS_MANAGE), client("eve", LEASES_READ, LEASES_MANAGE)
        owner, other, service = client("helper"), client("bob"), client("helper", kind="service")
        assert await admin.set_owner_limits("helper", LIMITS) == LIMITS
        for each in (admin, reader, owner):
            assert await each.owner_limits("helper") == LIMITS
        for each in (other, service):
            with pytest.raises(AgentFarmError, match=f"needs the scope {LIMITS_MANAGE}"):
                await each.owner_limits("helper")
        for each in (reader, owner, other, service):
            with pytest.raises(AgentFarmError, match=f"needs the scope {LIMITS_MANAGE}"):
                await each.set_owner_limits("helper", OwnerLimits())
            with pytest.raises(AgentFarmError, match=f"needs the scope {LIMITS_MANAGE}"):
                await each.drop_owner_limits("helper")
        assert await admin.owner_limits("helper") == LIMITS
        for each in (admin, reader, owner, other, service):
            await each.aclose()


@pytest.mark.parametrize("name", ["x" * 256, "a\nb"])
async def test_a_name_that_nobody_has(tmp_path: Path, hub: HubDouble, name: str) -> None:
    """It is refused, whatever is done with it."""
    async with farm_in(tmp_path) as farm:
        with pytest.raises(InvalidField, match="owner"):
            await farm.client.set_owner_limits(name, LIMITS)
        with pytest.raises(InvalidField, match="owner"):
            await farm.client.owner_limits(name)
