"""VS Code against the farm: the calls of its JupyterHub and Jupyter extensions, by their libraries, in their order."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from hub_process import HubProcess, hub_process
from ssh_node import ssh_node
from vscode_calls import vscode
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.vscode, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub() -> AsyncIterator[HubProcess]:
    """Run a Hub with a node of one simulated GPU."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(ssh_node("n1", "127.0.0.11", sys.executable, 1))
        found = await stack.enter_async_context(hub_process([node.spec]))

        async def ready() -> bool:
            return all(node["eligible"] for node in await found.farm.nodes())

        await eventually(ready, "the node is eligible", timeout=60, interval=0.1)
        yield found


async def least_token(hub: HubProcess, user: str) -> str:
    """Make a user, and return a token of theirs that can do what VS Code needs and no more."""
    own = await hub.add_user(user)
    scopes = [f"{scope}!user={user}" for scope in ("access:servers", "read:servers", "servers")]
    status, body = await hub.api("POST", f"/users/{user}/tokens", {"note": "VS Code", "scopes": scopes}, token=own)
    assert status == 201, body
    return str(body["token"])


def check_kernel(report: dict[str, Any]) -> None:
    """Check that every call was answered well and what the kernel did."""
    assert "refused" not in report, report["refused"]
    statuses = {call.split()[1] for call in report["calls"]}
    assert statuses <= {"200", "201", "202", "204", "open"}, report["calls"]
    assert report["outputs"]["executed"].startswith("42 ")
    assert report["outputs"]["interrupted"] == "KeyboardInterrupt"
    assert report["outputs"]["reconnected"] == "42\n"
    assert report["outputs"]["restarted"] == "False\n"
    assert "python3" in report["specs"]


def in_order(report: dict[str, Any]) -> list[str]:
    """Return the calls without the kernel's id, what a loop repeats only once."""
    calls = [re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID", re.sub(r" \d+ ", " ", call)) for call in report["calls"]]
    return [call for call, before in zip(calls, ["", *calls], strict=False) if call != before]


async def test_the_default_server_from_nothing_to_a_kernel_and_back(hub: HubProcess) -> None:
    """With the least token VS Code adds the Hub, starts the server, uses a kernel through all its turns, and stops."""
    token = await least_token(hub, "ada")
    report = await vscode(hub.url, "ada", token)
    check_kernel(report)
    calls = iter(in_order(report))
    for wanted in (
        *("GET hub/api", "GET hub/api/users/ada", "GET hub/api/users/ada?include_stopped_servers"),
        *("GET hub/api/users/ada", "POST hub/api/users/ada/server", "GET hub/api/users/ada"),
        *("GET user/ada/api/kernelspecs", "POST user/ada/api/sessions", "WS open user/ada/api/kernels/ID/channels"),
        *("POST user/ada/api/kernels/ID/interrupt", "WS open user/ada/api/kernels/ID/channels"),
        *("POST user/ada/api/kernels/ID/restart", "WS open user/ada/api/kernels/ID/channels"),
        *("DELETE user/ada/api/sessions/ID", "DELETE hub/api/users/ada/server"),
    ):
        assert wanted in calls, f"{wanted} is not there, or not in its place: {report['calls']}"
    async with hub.http.get(f"{hub.url}/user/ada/api/kernels", headers=hub.headers(token)) as answer:
        assert answer.status == 424  # VS Code shows this; a redirect would give it a page of HTML


async def test_a_named_server_is_started_with_the_options_it_had(hub: HubProcess) -> None:
    """A named server that was started once with a GPU is in VS Code's list, and VS Code's start gets it one again."""
    token = await least_token(hub, "bob")
    await hub.start_server("bob", {"gpus": 1}, "gpu")
    await hub.stop_server("bob", "gpu")
    report = await vscode(hub.url, "bob", token, "gpu")
    check_kernel(report)
    assert "gpu" in report["servers"]
    assert "POST hub/api/users/bob/servers/gpu" in in_order(report)
    assert report["outputs"]["executed"].startswith("42 GPU-")


async def test_a_start_that_outlasts_vscode_goes_on(hub: HubProcess) -> None:
    """When VS Code has given up, the start goes on: choosing the server again connects to it."""
    token = await least_token(hub, "dan")
    report = await vscode(hub.url, "dan", token, patience=0)
    assert "VS Code gave up" in report["refused"]
    again = await vscode(hub.url, "dan", token)
    assert "refused" not in again, again["refused"]
    assert again["outputs"]["restarted"] == "False\n"


async def test_the_token_can_do_nothing_else(hub: HubProcess) -> None:
    """The token that is pasted into VS Code makes no further token, reads no other user, and sees none of the farm."""
    token = await least_token(hub, "cy")
    assert (await hub.api("POST", "/users/cy/tokens", {}, token))[0] == 403
    assert (await hub.api("GET", "/users/admin", token=token))[0] == 404
    async with hub.http.get(f"{hub.url}/services/agentfarm/api/v1/nodes", headers=hub.headers(token)) as answer:
        assert answer.status == 403
