"""The MCP endpoint on a real Hub with a real node, with the SDK's own client: what an agent does there, and may not."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from mcp.shared.exceptions import MCPError
from mcp_client import Session, images_of, mcp_session, text_of
from mcp_types import TextResourceContents
from tasks_hub import TasksHub, tasks_hub
from waiting import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

TOOLS = {
    *("whoami", "farm_status", "list_servers", "start_server", "stop_server"),
    *("execute_code", "interrupt_kernel", "restart_kernel", "list_kernels", "shutdown_kernel"),
    *("submit_task", "get_task", "list_tasks", "cancel_task"),
    *("list_files", "read_file", "write_file"),
}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
INITIALIZE: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
SLEEP = "print('begun', flush=True)\nimport time\ntime.sleep(60)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TasksHub]:
    """A Hub with one node and the agents `bot` and `other`; the bot's default server runs."""
    workspace = tmp_path_factory.mktemp("workspace")
    async with tasks_hub(1, f"c.Spawner.notebook_dir = {str(workspace)!r}\n") as running:
        await running.register("other")
        async with session(running) as mcp:
            view = await mcp.data("start_server", wait_seconds=100)
            assert (view["state"], view["node"]) == ("running", "n1"), view
        yield running


def url_of(site: TasksHub) -> str:
    """Return the endpoint's URL at the proxy."""
    return f"{site.hub.url}/services/agents/mcp"


def session(site: TasksHub, agent: str = "bot", mode: str = "auto") -> Any:
    """Connect as an agent."""
    return mcp_session(url_of(site), site.tokens[agent], mode)


@pytest_asyncio.fixture(loop_scope="module")
async def mcp(site: TasksHub) -> AsyncIterator[Session]:
    """A session of the bot."""
    async with session(site) as connected:
        yield connected


@pytest_asyncio.fixture(loop_scope="module", params=["auto", "legacy"])
async def each(site: TasksHub, request: pytest.FixtureRequest) -> AsyncIterator[Session]:
    """A session of the bot, with the newest protocol and with the one before."""
    async with session(site, mode=request.param) as connected:
        yield connected


async def test_tools_are_described_for_models(each: Session) -> None:
    """All tools are there, each with what it does and what each of its parameters means."""
    tools = (await each.client.list_tools()).tools
    assert {tool.name for tool in tools} == TOOLS
    for tool in tools:
        assert len(tool.description or "") > 40, tool.name
        properties = tool.input_schema.get("properties", {})
        undescribed = [name for name, schema in properties.items() if "description" not in json.dumps(schema)
                       and "$ref" not in json.dumps(schema)]  # fmt: skip
        assert undescribed == [], f"{tool.name}: {undescribed}"
        assert "ctx" not in properties


async def test_who_one_is_and_how_the_farm_is(mcp: Session) -> None:
    """The agent's record with its limits, and a node with room, kernels and a GPU that is marked as simulated."""
    me = await mcp.data("whoami")
    assert (me["name"], me["agent"]["limits"]["servers"]) == ("bot", 4)
    farm = await mcp.data("farm_status")
    (node,) = farm["each_node"]
    assert (farm["nodes_eligible"], farm["gpus_free"], node["node"]) == (1, 1, "n1")
    assert node["gpus"][0]["simulated"]
    assert node["memory_free_gib"] > 0


async def test_state_stays_between_calls_and_sessions(site: TasksHub, each: Session) -> None:
    """A variable is there in the next call, in another session too, and in no other kernel."""
    await each.code("x = 20", kernel="state")
    assert (await each.code("x + 1", kernel="state"))["output"] == "21\n"
    async with session(site) as later:
        assert (await later.code("x + 2", kernel="state"))["output"] == "22\n"
    assert (await each.code("x", kernel="elsewhere"))["error"]["ename"] == "NameError"
    kernels = (await each.data("list_kernels"))["kernels"]
    assert {"state", "elsewhere"} <= {kernel["kernel"] for kernel in kernels}


async def test_output_is_streamed(each: Session) -> None:
    """What is printed is told while the code goes on, and is in the answer."""
    code = "import time\nfor i in range(4):\n    print(i, flush=True)\n    time.sleep(0.25)"
    result = await each.call("execute_code", code=code)
    assert text_of(result) == "0\n1\n2\n3"
    assert len(each.told) >= 2
    assert "".join(each.told).split() == [str(i) for i in range(4)][: len("".join(each.told).split())]


async def test_an_image_is_an_image(each: Session) -> None:
    """What a plot shows comes as image content beside the text."""
    code = f"import base64\nfrom IPython.display import Image\nImage(base64.b64decode({PNG!r}))"
    result = await each.call("execute_code", code=code)
    (image,) = images_of(result)
    assert (image.mime_type, image.data) == ("image/png", PNG)
    assert text_of(result) == "[image 1: image/png, 72 bytes]"


async def test_an_exception_is_a_result(each: Session) -> None:
    """The call worked; name, value and traceback are what the model corrects its code by."""
    result = await each.call("execute_code", code="def half(n):\n    return n / 0\nhalf(4)")
    assert not result.is_error
    assert result.structured_content is not None
    error = result.structured_content["error"]
    assert (result.structured_content["status"], error["ename"]) == ("error", "ZeroDivisionError")
    assert "return n / 0" in text_of(result)
    assert "\x1b" not in text_of(result)


async def test_a_timeout_interrupts(mcp: Session) -> None:
    """Code that takes too long ends, says so, and the kernel goes on."""
    ended = await mcp.code("kept = 1\n" + SLEEP, kernel="slow", timeout_seconds=1)
    assert (ended["status"], ended["output"]) == ("timeout", "begun\n")
    assert (await mcp.code("kept", kernel="slow"))["output"] == "1\n"


async def test_an_interrupt_from_another_call(site: TasksHub, each: Session) -> None:
    """Another call can interrupt, restart and shut down; what executes ends with that."""
    # A kernel that is to restart is interrupted first, and may be quicker than its end.
    for tool, ends in (("interrupt_kernel", {"error"}), ("restart_kernel", {"kernel_restarted", "error"})):
        async with session(site) as second:
            running = asyncio.ensure_future(second.call("execute_code", code=SLEEP, kernel="busy"))
            await eventually(lambda second=second: second.told, "it executes", 30)
            await each.data(tool, kernel="busy")
            result = await asyncio.wait_for(running, 20)
            assert (result.structured_content or {})["status"] in ends, text_of(result)
    await each.data("shutdown_kernel", kernel="busy")
    assert "busy" not in {one["kernel"] for one in (await each.data("list_kernels"))["kernels"]}


async def test_a_client_that_goes_away_stops_its_code(site: TasksHub, each: Session) -> None:
    """The kernel is free for the next call long before the code's own end."""
    mode = "legacy" if each.client.protocol_version < "2026" else "auto"

    async def leave() -> None:
        async with session(site, mode=mode) as leaving:
            running = asyncio.ensure_future(leaving.call("execute_code", code=SLEEP, kernel="left"))
            await eventually(lambda: leaving.told, "it executes", 30)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    await leave()
    ended = await each.code("'free'", kernel="left", timeout_seconds=15)
    assert ended["output"] == "'free'\n"


async def test_long_output_is_cut_and_says_so(mcp: Session) -> None:
    """Beginning and end are there, and how much is not."""
    ended = await mcp.code("for i in range(50_000): print(i)", max_output=400)
    assert ended["truncated"]
    assert ended["output"].startswith("0\n1\n")
    assert ended["output"].endswith("49999\n")
    assert "characters left out" in ended["output"]


async def test_files_there_and_back(mcp: Session) -> None:
    """Text and bytes are read as they were written, in folders that are made, in parts where they are long."""
    await mcp.data("write_file", path="deep/er/table.csv", content="a,b\n1,2\n")
    assert text_of(await mcp.call("read_file", path="deep/er/table.csv")) == "a,b\n1,2\n"
    assert (await mcp.code("print(open('deep/er/table.csv').read())"))["output"] == "a,b\n1,2\n\n"
    (entry,) = (await mcp.data("list_files", path="deep/er"))["entries"]
    assert (entry["path"], entry["type"], entry["size_bytes"]) == ("deep/er/table.csv", "file", 8)
    await mcp.data("write_file", path="pixel.png", content=PNG, encoding="base64")
    (image,) = images_of(await mcp.call("read_file", path="pixel.png"))
    assert image.data == PNG
    await mcp.data(
        "write_file", path="bytes.bin", content=base64.b64encode(bytes(range(256))).decode(), encoding="base64"
    )
    part = await mcp.data("read_file", path="bytes.bin", offset=200, max_characters=100)
    assert (base64.b64decode(part["content"]), part["next_offset"]) == (bytes(range(200, 256)), None)
    await mcp.data("write_file", path="long.txt", content="x" * 1000 + "é" * 10)
    part = await mcp.data("read_file", path="long.txt", offset=995, max_characters=8)
    assert (part["content"], part["next_offset"], part["total"]) == ("xxxxxééé", 1003, 1010)


async def test_a_task_from_submission_to_its_output(mcp: Session) -> None:
    """Cells become a task that the farm executes; the wait ends with it, with what was shown."""
    brief = await mcp.data("submit_task", cells=["n = 6", "print(n * 7)"], details={"name": "answer"})
    view = await mcp.data("get_task", task_id=brief["task_id"], wait=120)
    assert (view["state"], view["name"], view["output"]) == ("completed", "answer", "[cell 1]\n42\n"), view
    assert view["attempts"][0]["node"] == "n1"
    listed = await mcp.data("list_tasks", state=["completed"])
    assert brief["task_id"] in {task["task_id"] for task in listed["tasks"]}


async def test_a_task_that_fails_and_one_that_is_cancelled(mcp: Session) -> None:
    """The error names the cell; a cancelled task is."""
    brief = await mcp.data("submit_task", cells=["a = 1", "raise KeyError('gone')"])
    view = await mcp.data("get_task", task_id=brief["task_id"], wait=120)
    assert (view["state"], view["reason"], view["error"]["cell"]) == ("discarded", "cell_error", 1), view
    brief = await mcp.data("submit_task", cells=["import time; time.sleep(100)"])
    await mcp.data("cancel_task", task_id=brief["task_id"])
    view = await mcp.data("get_task", task_id=brief["task_id"], wait=60)
    assert view["state"] == "cancelled"


async def test_files_are_resources(each: Session) -> None:
    """The root folder is listed, folders tell what is in them, and files come as they are: text, bytes, any name."""
    await each.data("write_file", path="a b/ü#?.csv", content="1,2\n")
    await each.data("write_file", path="dot.png", content=PNG, encoding="base64")
    templates = (await each.client.list_resource_templates()).resource_templates
    assert [template.name for template in templates] == ["workspace", "task-notebook"]
    listed = {resource.name: resource for resource in (await each.client.list_resources()).resources}
    assert (listed["dot.png"].uri, listed["dot.png"].mime_type) == ("agentfarm://workspace/dot.png", "image/png")
    folder = await read(each, listed["a b"].uri)
    (inside,) = json.loads(folder)
    assert (inside["name"], inside["uri"]) == ("a b/ü#?.csv", "agentfarm://workspace/a%20b/%C3%BC%23%3F.csv")
    assert await read(each, inside["uri"]) == "1,2\n"
    assert await read(each, listed["dot.png"].uri) == base64.b64decode(PNG)


async def test_notebooks_of_tasks_are_resources(site: TasksHub, each: Session) -> None:
    """As far as they are executed; those of tasks that somebody may not see are not there."""
    task_id = (await each.data("submit_task", cells=["print(6 * 7)"], details={"name": "told"}))["task_id"]
    await each.data("get_task", task_id=task_id, wait=120)
    uri = f"agentfarm://tasks/{task_id}/notebook"
    listed = {resource.uri: resource.name for resource in (await each.client.list_resources()).resources}
    assert listed[uri] == "told"
    notebook = json.loads(await read(each, uri))
    assert notebook["cells"][0]["outputs"][0]["text"] == "42\n"
    async with session(site, "other") as stranger:
        assert uri not in {resource.uri for resource in (await stranger.client.list_resources()).resources}
        assert (await unread(stranger, uri))["reason"] == "not_found"


async def test_resources_that_cannot_be_read(mcp: Session) -> None:
    """Each refusal is an error of the protocol, with a sentence and a fixed reason."""
    await mcp.code("open('large.txt', 'w').write('x' * 1_100_000)")
    refusals = {
        "agentfarm://workspace/large.txt": ("answer_too_long", "use the tool read_file"),
        "agentfarm://workspace/gone.txt": ("not_found", "there is no file or folder"),
        "agentfarm://workspace/x.txt?server=nowhere": ("server_not_running", "is not running"),
        "agentfarm://workspace/a/../../etc/passwd": ("invalid", "without '..'"),
        "agentfarm://tasks/x/notebook": ("invalid", "uri must be"),
        "file:///etc/passwd": ("invalid", "uri must be"),
    }
    for uri, (reason, sentence) in refusals.items():
        told = await unread(mcp, uri)
        assert told["reason"] == reason, told
        assert sentence in told["message"], told


async def read(mcp: Session, uri: str) -> Any:
    """Return the content of a resource."""
    (content,) = (await mcp.client.read_resource(uri)).contents
    return content.text if isinstance(content, TextResourceContents) else base64.b64decode(content.blob)


async def unread(mcp: Session, uri: str) -> dict[str, Any]:
    """Return what is said of a resource that cannot be read."""
    with pytest.raises(MCPError) as caught:
        await mcp.client.read_resource(uri)
    return {"message": caught.value.error.message, **caught.value.error.data}


async def test_refusals_are_values(mcp: Session) -> None:
    """Each has a sentence and a fixed reason, and what is wrong with arguments is told by their name."""
    cases: list[tuple[str, dict[str, Any], str, str]] = [
        ("execute_code", {"code": "1", "server": "none"}, "server_not_running", "call start_server first"),
        ("execute_code", {"code": "1", "language": "cobol"}, "invalid", "a kernel of this server"),
        ("execute_code", {"code": "1", "kernel": "../x"}, "invalid", "kernel must be"),
        ("interrupt_kernel", {"kernel": "never"}, "not_found", "look at list_kernels"),
        ("start_server", {"server": "big", "resources": {"gpus": 9}}, "hub_api", "gpus must be at most 8"),
        ("start_server", {"server": "a/b"}, "invalid", "without '/'"),
        ("start_server", {"server": "task-0123abcd-1"}, "invalid", "another name"),
        ("read_file", {"path": "no/such.txt"}, "not_found", "no/such.txt"),
        ("read_file", {"path": "../../etc/passwd"}, "invalid", "without '..'"),
        ("write_file", {"path": "x", "content": "%%", "encoding": "base64"}, "invalid", "base64"),
        ("submit_task", {}, "invalid", "cells must be given"),
        ("submit_task", {"cells": ["1"], "details": {"after": ["0" * 16]}}, "invalid", "after"),
        ("get_task", {"task_id": "0" * 16}, "not_found", "0" * 16),
    ]
    for tool, arguments, reason, words in cases:
        error = await mcp.error(tool, **arguments)
        assert error["reason"] == reason, (tool, error)
        assert words in error["message"], (tool, error)
        assert "Traceback" not in error["message"]
    wrong = await mcp.error("execute_code", code="1", timeout_seconds=-1)
    assert "timeout_seconds" in wrong["message"]


async def test_a_server_with_a_gpu_is_started_and_stopped(mcp: Session) -> None:
    """The server is pinned to the GPU, is listed, and is gone after its stop; a second stop is no error."""
    view = await mcp.data("start_server", server="gpu", resources={"gpus": 1}, wait_seconds=100)
    assert (view["state"], view["gpus"], view["node"]) == ("running", 1, "n1"), view
    seen = await mcp.code("import os; print(os.environ['CUDA_VISIBLE_DEVICES'][:4])", server="gpu")
    assert (seen["output"], seen["server"]) == ("GPU-\n", "gpu")
    running = {one["server"] for one in (await mcp.data("list_servers"))["servers"] if one["state"] == "running"}
    assert {"", "gpu"} <= running
    assert (await mcp.data("stop_server", server="gpu"))["was_running"]
    assert not (await mcp.data("stop_server", server="gpu"))["was_running"]
    gone = await mcp.error("execute_code", code="1", server="gpu")
    assert gone["reason"] == "server_not_running", gone
    assert "these run: ''" in gone["message"]


async def _post(site: TasksHub, token: str, body: Any, **headers: str) -> tuple[int, Mapping[str, str], str]:
    """Return status, headers and text of a bare request to the endpoint."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream", **headers}
    async with site.hub.http.post(url_of(site), json=body, headers=headers) as answer:
        return answer.status, answer.headers, await answer.text()


async def test_a_bad_token_is_401(site: TasksHub) -> None:
    """Neither a wrong token nor none gets anywhere, and the answer says what is wanted."""
    status, headers, text = await _post(site, "wrong", INITIALIZE)
    assert headers["WWW-Authenticate"] == "Bearer"
    assert (status, json.loads(text)["reason"]) == (401, "unauthenticated")
    async with site.hub.http.post(url_of(site), json=INITIALIZE) as answer:
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


async def test_another_agents_session_does_not_exist(site: TasksHub) -> None:
    """A session id that was stolen opens nothing for another agent, and goes on for its own."""
    status, headers, _ = await _post(site, site.tokens["bot"], INITIALIZE)
    assert status == 200
    stolen = {"Mcp-Session-Id": headers["Mcp-Session-Id"], "MCP-Protocol-Version": "2025-06-18"}
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    status, _, text = await _post(site, site.tokens["other"], listing, **stolen)
    assert (status, "Session not found" in text) == (404, True)
    await _post(site, site.tokens["bot"], {"jsonrpc": "2.0", "method": "notifications/initialized"}, **stolen)
    status, _, text = await _post(site, site.tokens["bot"], listing, **stolen)
    assert (status, "execute_code" in text) == (200, True)


async def test_an_agent_reaches_nothing_of_another(site: TasksHub) -> None:
    """Neither its servers nor its tasks, whatever it names."""
    async with session(site) as bot, session(site, "other") as other:
        brief = await bot.data("submit_task", cells=["1"])
        assert (await other.error("get_task", task_id=brief["task_id"]))["reason"] == "not_found"
        assert (await other.data("list_tasks"))["tasks"] == []
        assert (await other.error("execute_code", code="1"))["reason"] == "server_not_running"
        assert (await other.error("submit_task", cells=["1"], details={"agent": "bot"}))["reason"] == "not_found"


async def test_a_person_may_use_the_tools_too(site: TasksHub) -> None:
    """Somebody's own token works with their own servers, and submits for the agents that they own."""
    status, body = await site.hub.api("POST", "/users/ada/tokens", {"note": "mcp"})
    assert status == 201
    async with mcp_session(url_of(site), body["token"]) as ada:
        assert "agent" not in await ada.data("whoami")
        assert (await ada.error("submit_task", cells=["1"]))["reason"] == "invalid"
        brief = await ada.data("submit_task", cells=["1"], details={"agent": "bot"})
        assert brief["agent"] == "bot"


async def test_a_suspended_agent_is_refused_at_once(site: TasksHub) -> None:
    """Its open session ends with 403, not when somebody's memory of its token does."""
    await site.register("brief")
    async with session(site, "brief", "legacy") as mcp:
        await mcp.data("whoami")
        await site.request("POST", "agents/brief/suspend", {"reason": "test"})
        status, _, text = await _post(site, site.tokens["brief"], INITIALIZE)
        assert status in (401, 403), text


async def test_a_server_that_dies_ends_what_it_executes(site: TasksHub, mcp: Session) -> None:
    """Within seconds, with what to do; the model is told so by the next call too."""
    await mcp.data("start_server", server="doomed", wait_seconds=100)
    running = asyncio.ensure_future(mcp.call("execute_code", code=SLEEP, server="doomed"))
    await eventually(lambda: "begun\n" in mcp.told, "it executes", 30)
    (lease,) = [lease for lease in await site.hub.farm.leases() if lease.server_name == "doomed"]
    assert lease.server is not None
    os.kill(lease.server.pid, signal.SIGKILL)
    result = await asyncio.wait_for(running, 20)
    assert result.is_error
    assert (result.structured_content or {})["status"] == "server_lost"
    assert "look at list_servers" in text_of(result)
    assert (await mcp.error("execute_code", code="1", server="doomed"))["reason"] in (
        "server_not_running",
        "server_unreachable",
    )
