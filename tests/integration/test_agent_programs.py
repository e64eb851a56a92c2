"""Whole agents on the farm: one of somebody else's framework, and the reference agent, with a scripted model."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import framework
import nbformat
import pytest
import pytest_asyncio
from jupyter_client.manager import AsyncKernelManager
from model_server import KEY, Call, Messages, ModelServer, Say, Step, model_server, tool_results
from nbclient import NotebookClient
from tasks_hub import TasksHub, tasks_hub

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TASK = "Write the measurements to a file, compute the mean of each group on the farm, and tell them."
CSV = "group,value\na,1\na,4\nb,10\nb,12\nb,14\n"
MEANS = (
    "import csv, json, statistics\n"
    "groups = {}\n"
    "for row in csv.DictReader(open('measurements.csv')):\n"
    "    groups.setdefault(row['group'], []).append(float(row['value']))\n"
    "means = {name: statistics.mean(values) for name, values in sorted(groups.items())}\n"
    "json.dump(means, open('means.json', 'w'))\nprint(means)"
)


def _answer(messages: Messages) -> str:
    """Say what the last file that was read holds: so the answer is the farm's, not the script's."""
    means = json.loads(tool_results(messages)[-1])
    return "The means are " + " and ".join(f"{name}: {value}" for name, value in means.items())


def script(*first: Step) -> list[Step]:
    """Return the work on the task: it starts a server, makes a mistake, sees it, and corrects it."""
    return [
        *first,
        Call("start_server", wait_seconds=100),
        Call("write_file", path="measurements.csv", content=CSV),
        Call("execute_code", code="print(mean_of_groups('measurements.csv'))"),
        Call("execute_code", code=MEANS),
        Call("read_file", path="means.json"),
        Say(_answer),
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(workspace: Path) -> AsyncIterator[TasksHub]:
    """A Hub with one node that all agents share."""
    async with tasks_hub(1, f"c.Spawner.notebook_dir = {str(workspace)!r}\n") as running:
        yield running


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which servers work."""
    return tmp_path_factory.mktemp("workspace")


@pytest_asyncio.fixture(loop_scope="module")
async def model() -> AsyncIterator[ModelServer]:
    """A model server."""
    async with model_server() as served:
        yield served


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The reference agent's module, from where it is shipped."""
    spec = importlib.util.spec_from_file_location("reference_agent", NOTEBOOKS / "reference_agent.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference_agent"] = module
    spec.loader.exec_module(module)
    return module


def environment(site: TasksHub, model: ModelServer, agent: str) -> dict[str, str]:
    """Return the variables that an agent is told by where model and farm are."""
    return {
        "OPENAI_BASE_URL": model.url,
        "OPENAI_MODEL": "scripted",
        "OPENAI_API_KEY": KEY,
        "AGENTFARM_MCP_URL": f"{site.hub.url}/services/agents/mcp",
        "AGENTFARM_TOKEN": site.tokens[agent],
    }


def check_work(workspace: Path, messages: Messages) -> None:
    """Check what was done on the node, and that the model was shown its mistake."""
    assert json.loads((workspace / "means.json").read_text()) == {"a": 2.5, "b": 12.0}
    assert (workspace / "measurements.csv").read_text() == CSV
    results = tool_results(messages)
    assert len(results) == 5
    assert any("NameError" in result and "mean_of_groups" in result for result in results)
    for name in ("means.json", "measurements.csv"):
        (workspace / name).unlink()


@pytest.mark.framework
async def test_an_agent_of_a_framework_solves_a_task(site: TasksHub, model: ModelServer, workspace: Path) -> None:
    """OpenAI's Agents SDK, with a token and the endpoint's address, works on a node from start to answer."""
    await site.register("openai")
    model.play(*script())
    answer = await framework.run_framework(TASK, **environment(site, model, "openai"))
    assert answer == "The means are a: 2.5 and b: 12.0\n"
    offered = {tool["function"]["name"] for tool in model.requests[0]["tools"]}
    assert {"execute_code", "submit_task", "start_server"} <= offered
    check_work(workspace, model.requests[-1]["messages"])


async def test_the_reference_agent_solves_a_task(
    site: TasksHub, model: ModelServer, reference: ModuleType, workspace: Path
) -> None:
    """It plans, works step by step, corrects itself, answers, and stops the server that it has started."""
    await site.register("planner")
    model.play(*script(Say("1. Write the file.\n2. Compute.\n3. Tell.")))
    settings = reference.Settings.from_environment(environment(site, model, "planner") | {"OPENAI_PRICE_INPUT": "10"})
    said: list[str] = []
    outcome = await reference.run(TASK, settings, say=said.append)
    assert (outcome.answer, outcome.stopped) == ("The means are a: 2.5 and b: 12.0", "")
    assert outcome.plan.startswith("1. Write the file.")
    assert (outcome.spent.steps, outcome.spent.tokens_input) == (7, 700)
    assert outcome.spent.cost == pytest.approx(0.007)
    assert "tools" not in model.requests[0]
    assert "stopped the server ''" in said
    assert await site.hub.model("planner") is None or not (await site.hub.model("planner") or {})["ready"]
    check_work(workspace, model.requests[-1]["messages"])


async def test_limits_end_the_reference_agent(site: TasksHub, model: ModelServer, reference: ModuleType) -> None:
    """Steps, tokens, money and time each end it, with a sentence, when the model goes round in circles."""
    settings = reference.Settings.from_environment(environment(site, model, "bot") | {"OPENAI_PRICE_OUTPUT": "100"})
    limits = [
        (reference.Limits(steps=3), "3 steps were made without an answer"),
        (reference.Limits(tokens=250), "the 250 tokens are used"),
        (reference.Limits(cost=0.0025), "the money is spent: 0.0030 of 0.0025"),
        (reference.Limits(steps=10_000, seconds=1), "the 1 seconds are over"),
    ]
    for limit, sentence in limits:
        model.play(Say("A plan."), Call("whoami"))
        outcome = await reference.run(TASK, settings, limit, say=lambda text: None)
        assert (outcome.answer, outcome.stopped) == ("", sentence)


async def test_the_reference_agent_says_what_is_wrong(
    site: TasksHub, model: ModelServer, reference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing variable, a refused key, a refused token, no endpoint, a busy one: each is one sentence."""
    good = environment(site, model, "bot")
    monkeypatch.setattr(reference, "PAUSE_SECONDS", 0.001)
    model.play(Say("plan"), Say("done"))

    async def attempt(**changes: str) -> str:
        try:
            settings = reference.Settings.from_environment(good | changes)
            outcome = await reference.run(TASK, settings, say=lambda text: None)
        except reference.AgentError as exc:
            return str(exc)
        return str(outcome.answer)

    assert (await attempt(OPENAI_MODEL="")).startswith("set OPENAI_MODEL in the environment")
    assert await attempt(OPENAI_API_KEY="wrong") == "the model's endpoint refuses the key in OPENAI_API_KEY"
    assert (await attempt(AGENTFARM_TOKEN="wrong")).startswith("the farm refuses AGENTFARM_TOKEN")
    assert "does not answer" in await attempt(OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    assert "does not answer" in await attempt(AGENTFARM_MCP_URL="http://127.0.0.1:1/mcp")
    assert "no MCP endpoint" in await attempt(AGENTFARM_MCP_URL=f"{site.hub.url}/services/agents/nothing")
    assert "OPENAI_PRICE_INPUT must be" in await attempt(OPENAI_PRICE_INPUT="cheap")
    model.failures = [429, 503]
    assert await attempt() == "done"
    model.failures = [500] * 9
    assert (await attempt()).startswith("the model's endpoint answered 500")


async def test_the_reference_agent_from_the_command_line(site: TasksHub, model: ModelServer) -> None:
    """The program prints what it does and the answer, and its exit status tells how it ended."""

    async def program(*options: str, **changes: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(NOTEBOOKS / "reference_agent.py"), *options, TASK),
            env={**os.environ, **environment(site, model, "bot"), **changes},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    model.play(Say("A plan."), Call("whoami"), Say("All is well."))
    status, out, err = await program()
    assert (status, err) == (0, "")
    assert out.startswith("plan:\nA plan.\nwhoami {}\n")
    assert out.endswith("\nAll is well.\n")
    model.play(Say("A plan."), Call("whoami"))
    status, _, err = await program("--max-steps", "2")
    assert (status, err) == (1, "reference agent: 2 steps were made without an answer\n")
    status, _, err = await program(AGENTFARM_TOKEN="")
    assert status == 2
    assert err.startswith("reference agent: set AGENTFARM_TOKEN")


async def test_the_notebook_of_the_reference_agent(site: TasksHub, model: ModelServer, workspace: Path) -> None:
    """Executed cell by cell, it shows the plan, the steps, the answer and what was used."""
    await site.register("booked")
    model.play(*script(Say("1. Compute.")))
    notebook: Any = nbformat.read(NOTEBOOKS / "reference_agent.ipynb", as_version=4)
    client = NotebookClient(
        notebook, km=AsyncKernelManager(kernel_name="python3"), timeout=120,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    )  # fmt: skip
    client.owns_km = True
    await client.async_execute(env=os.environ | environment(site, model, "booked"))
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "plan:\n1. Compute." in text
    assert "NameError" in text
    assert "The means are a: 2.5 and b: 12.0" in text
    assert "7 steps" in text
    check_work(workspace, model.requests[-1]["messages"])
