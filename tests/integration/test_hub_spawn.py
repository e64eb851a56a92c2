"""Servers on the farm with everything real: Hub, proxy, controller, SSH, noded, single-user servers, kernels."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
import pytest_asyncio
from hub_process import HubProcess, hub_process
from ssh_node import ssh_node
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

GPUS = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _shared_hub() -> AsyncIterator[HubProcess]:
    """Run a Hub with two nodes of one simulated GPU each."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(ssh_node(f"n{number}", f"127.0.0.1{number}", sys.executable, 1))
            for number in (1, 2)
        ]
        yield await stack.enter_async_context(hub_process([node.spec for node in nodes]))


@pytest_asyncio.fixture(loop_scope="module")
async def hub(_shared_hub: HubProcess) -> AsyncIterator[HubProcess]:
    """Give the Hub that the tests share, without users and servers, its nodes ready."""
    await nodes_ready(_shared_hub, 2)
    yield _shared_hub
    await _shared_hub.emptied()


@pytest.fixture
def begin(hub: HubProcess) -> int:
    """Give where the log of this test begins."""
    return hub.log_path.stat().st_size


async def nodes_ready(hub: HubProcess, count: int) -> None:
    """Wait until the farm has so many eligible nodes."""

    async def ready() -> bool:
        return sum(node["eligible"] for node in await hub.farm.nodes()) == count

    await eventually(ready, f"{count} nodes are eligible", timeout=60, interval=0.1)


async def progress_of(hub: HubProcess, user: str, until: str) -> list[str]:
    """Return what the progress page shows, up to the first message that contains `until`."""
    shown = []
    url = f"{hub.url}/hub/api/users/{user}/server/progress"
    async with hub.http.get(url, headers=hub.headers()) as answer:
        async for line in answer.content:
            if line.startswith(b"data:"):
                shown.append(line.decode())
                if until in shown[-1]:
                    break
    return shown


async def test_each_user_gets_a_gpu_and_the_next_one_waits(hub: HubProcess) -> None:
    """Two users get different GPUs; a third waits at position 1 and is granted within a second of a stop."""
    for user in ("ada", "bob", "cy"):
        await hub.add_user(user)
    models = {user: await hub.start_server(user, {"gpus": 1}) for user in ("ada", "bob")}
    assert models["ada"]["state"]["lease"] != models["bob"]["state"]["lease"]
    gpus = {user: (await hub.run_cell(user, GPUS)).strip() for user in models}
    assert all(gpus.values())
    assert gpus["ada"] != gpus["bob"]
    async with hub.http.get(f"{hub.url}/user/ada/api/status", headers=hub.headers()) as answer:
        assert answer.status == 200
        assert answer.headers["X-AgentFarm-Lease"] == models["ada"]["state"]["lease"]

    await hub.request_server("cy", {"gpus": 1})
    shown = await progress_of(hub, "cy", "position 1")
    assert "position 1" in shown[-1]
    await hub.stop_server("ada")
    stopped = time.time()
    await hub.ready("cy")
    (lease,) = [lease for lease in await hub.farm.leases() if lease.owner == "cy"]
    assert lease.granted_at is not None
    assert lease.granted_at - stopped < 1
    assert (await hub.run_cell("cy", GPUS)).strip() == gpus["ada"]


async def test_what_can_never_be_is_refused_by_form_and_rest_alike(hub: HubProcess) -> None:
    """More GPUs than any node has, and unknown options, are refused with a reason."""
    await hub.add_user("ada")
    status, body = await hub.api("POST", "/users/ada/server", {"gpus": 2})
    assert (status, "n1" in body["message"]) == (409, True), body
    status, body = await hub.api("POST", "/users/ada/server", {"gpu": 1})
    assert (status, "gpu" in body["message"]) == (400, True), body
    assert await hub.farm.leases() == []


async def test_servers_survive_the_hubs_sigkill(hub: HubProcess) -> None:
    """After a SIGKILL and a restart the running server and the one that was starting are there, usable, once."""
    for user in ("ada", "bob"):
        await hub.add_user(user)
    await hub.start_server("ada", {"gpus": 1})
    before = await hub.run_cell("ada", GPUS)
    await hub.request_server("bob", {"gpus": 1})

    async def launched() -> bool:
        return any(lease.owner == "bob" and lease.url for lease in await hub.farm.leases())

    await eventually(launched, "bob's server is launched", timeout=30)
    assert not (await model_of(hub, "bob"))["ready"]
    old = {lease.owner: (lease.id, lease.server.pid) for lease in await hub.farm.leases() if lease.server}
    await hub.kill()
    await hub.start()
    for user in ("ada", "bob"):
        await hub.ready(user)
    assert {lease.owner: (lease.id, lease.server.pid) for lease in await hub.farm.leases() if lease.server} == old
    assert await hub.run_cell("ada", GPUS) == before
    assert (await hub.run_cell("bob", GPUS)).strip()
    await hub.stop_server("ada")
    await hub.stop_server("bob")
    assert await hub.farm.leases() == []


async def test_a_cancelled_start_leaves_nothing(hub: HubProcess) -> None:
    """A start that is cancelled while its server boots leaves no lease, no pending and no ready server."""
    await hub.add_user("ada")
    await hub.request_server("ada", {"gpus": 1})

    async def launched() -> bool:
        return any(lease.url for lease in await hub.farm.leases())

    await eventually(launched, "the server is launched", timeout=30)
    await hub.stop_server("ada")
    model = await hub.model("ada")
    assert model is None or not model["ready"]

    async def free() -> bool:
        return await hub.farm.leases() == []

    await eventually(free, "the lease is released", timeout=30)


async def test_a_killed_servers_route_is_gone_at_once(hub: HubProcess, begin: int) -> None:
    """Long before the next poll the Hub knows that a server was killed, and the user can start it again."""
    await hub.add_user("ada")
    await hub.start_server("ada")
    with pytest.raises((TypeError, OSError, AssertionError, TimeoutError)):
        await hub.run_cell("ada", "import os, signal; os.kill(int(os.environ['JPY_PARENT_PID']), signal.SIGKILL)")

    async def gone() -> bool:
        model = await hub.model("ada")
        return model is None or not model["ready"]

    await eventually(gone, "the Hub knows that the server is gone", timeout=15)
    assert "server stopped, with exit code: 137" in hub.log_text(begin)
    await hub.start_server("ada")


async def test_a_removed_name_meets_a_server_that_ended(hub: HubProcess, begin: int) -> None:
    """A named server may be deleted with its name while it runs, and while the Hub notices that it ended."""
    await hub.add_user("ada")
    path, remove = "/users/ada/servers/bench-n1", {"remove": True}
    await hub.start_server("ada", name="bench-n1")
    assert (await hub.api("DELETE", path, remove))[0] in (202, 204)
    await eventually(lambda: name_is_gone(hub, path), "the running server and its name are gone", timeout=30)

    assert "server stopped, with exit code" not in hub.log_text(begin), (
        "a stop by the Hub is no end that it must notice"
    )

    await hub.start_server("ada", name="bench-n1")
    (lease,) = await hub.farm.leases()
    with frozen_proxy(hub):  # so that the Hub stays in the middle of noticing the end
        await hub.farm.release(lease.id, 0)
        await eventually(lambda: "server stopped, with exit code" in hub.log_text(begin), "the Hub notices the end")
        deleting = asyncio.create_task(hub.direct("DELETE", path, remove))
        await asyncio.wait({deleting}, timeout=1)
    assert await deleting in (202, 204)
    await eventually(lambda: name_is_gone(hub, path), "the ended server and its name are gone", timeout=30)
    await hub.start_server("ada", name="bench-n1")
    await hub.stop_server("ada", "bench-n1")
    assert "Unhandled error" not in hub.log_text(begin)


async def name_is_gone(hub: HubProcess, path: str) -> bool:
    """Whether the Hub knows no server of this name."""
    _, body = await hub.api("GET", "/users/ada?include_stopped_servers=1")
    return path.rpartition("/")[2] not in body["servers"]


@contextmanager
def frozen_proxy(hub: HubProcess) -> Iterator[None]:
    """Let the proxy answer nothing for as long as the block runs."""
    (proxy,) = [process for process in hub.processes() if "configurable-http-proxy" in " ".join(process.cmdline())]
    proxy.suspend()
    try:
        yield
    finally:
        proxy.resume()


async def model_of(hub: HubProcess, user: str) -> dict[str, Any]:
    """Return the model of a server that is there."""
    model = await hub.model(user)
    assert model is not None
    return model
