"""What the MCP tools read of the service's own answers: bounded, and not on the event loop."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import nbformat
import pytest
from agents_site import AgentsSite, agents_site, make_agent
from hub_double import hub_double

from jupyterhub_agentfarm.agents.access import SUBMIT
from jupyterhub_agentfarm.agents.jupyter.kernels import Kernels
from jupyterhub_agentfarm.agents.mcp.tools import caller as calling
from jupyterhub_agentfarm.agents.mcp.tools import tasks as task_tools
from jupyterhub_agentfarm.agents.mcp.tools.answers import AnswerTooLong
from jupyterhub_agentfarm.agents.mcp.tools.caller import Caller, ToolDesk
from jupyterhub_agentfarm.services.handlers import Principal

Desk = tuple[AgentsSite, ToolDesk, Caller]


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """Serve the API, and give the tools' desk with an agent that calls."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(hub_double())
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        site = await stack.enter_async_context(agents_site(tmp_path, [make_agent("bot")]))
        made = ToolDesk(Kernels(), site.runtime_path)
        stack.push_async_callback(made.aclose)
        yield site, made, Caller(Principal("bot", "user"), hub.token("bot", SUBMIT, service="agents"))


async def submit(desk: ToolDesk, caller: Caller, size: int) -> str:
    """Submit a notebook that has printed so many bytes, and return its task's id."""
    printed = nbformat.v4.new_output("stream", name="stdout", text="begin" + "x" * size)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[printed])])
    task = await desk.service(caller, "POST", "tasks", {"notebook": notebook})
    return str(task["id"])


async def test_the_output_of_a_large_notebook_is_read_on_a_thread(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its beginning is shown, and the event loop did not read it."""
    _, tools, caller = desk
    task, threads, loads = await submit(tools, caller, 800_000), list[threading.Thread](), json.loads

    def noted(content: Any) -> Any:
        if len(content) > 800_000:
            threads.append(threading.current_thread())
        return loads(content)

    monkeypatch.setattr(calling.json, "loads", noted)
    assert "begin" in await task_tools._output(tools, caller, task)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_notebook_that_is_too_large_is_not_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is told all the same, with a sentence in the output's place; other answers are refused."""
    _, tools, caller = desk
    task = await submit(tools, caller, 800_000)
    monkeypatch.setattr(calling, "MAX_ANSWER_BYTES", 2**19)
    assert "the notebook is too large" in await task_tools._output(tools, caller, task)
    with pytest.raises(AnswerTooLong):
        await tools.service(caller, "GET", f"tasks/{task}/notebook")
    assert (await tools.service(caller, "GET", f"tasks/{task}"))["id"] == task
