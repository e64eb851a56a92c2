"""The running services keep what their descriptions promise, whatever is asked of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from agents_site import agents_site, make_agent
from benchmark_world import World, make_view, opened
from controllers import controller
from hub_double import hub_double
from jupyter_server_process import TOKEN, Server, notebook
from node_records import gpu, request, telemetry
from schemathesis_run import explore, narrowed
from traitlets.config import Config
from waiting import eventually

from jupyterhub_agentfarm.agents.models import Attempt, Task, TaskRequest
from jupyterhub_agentfarm.agents.tasks.book import TaskBook
from jupyterhub_agentfarm.benchmark.app import BenchmarkApp
from jupyterhub_agentfarm.benchmark.client import BenchmarkClient
from jupyterhub_agentfarm.models import NodeSpec
from jupyterhub_agentfarm.records import to_json
from jupyterhub_agentfarm.services import local
from jupyterhub_agentfarm.services.app import ServiceApp
from jupyterhub_agentfarm.services.hub import close_shared_client

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


async def fetched(url: str, token: str) -> dict[str, Any]:
    """Return the description that a service serves."""
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Authorization": f"token {token}"}) as got:
        assert got.status == 200, await got.text()
        found: dict[str, Any] = await got.json()
        return found


async def test_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller, with a node that looks ready but does not answer, a granted lease and a waiting one."""
    spec = NodeSpec(name="a", host="127.0.0.1", port=1, host_key=KEY)
    async with hub_double() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        async with controller(tmp_path, config={"Inventory": {"nodes": [to_json(spec)]}}) as farm:
            entry = farm.app.farm.inventory._entries["a"]
            await entry.link.aclose()
            entry.node = replace(entry.node, state="ready", telemetry=telemetry(gpu("GPU-a")), reported_at=2e10)
            farm.app.farm._reconciler._reconciled.add("a")
            lease = await farm.client.place(request("ada", gpus=1))
            waiting = await farm.client.place(request("bob", gpus=1))
            base = farm.client._base()
            token = farm.client.token or local.local_token(farm.app.runtime_path)
            described = await fetched(base + "api/v1/openapi.json", token)
            chosen = {"name": ["a", "nobody"], "id": [lease.id, waiting.id, "0" * 32]}
            ports = narrowed(described, chosen)
            ports["components"]["schemas"]["ScanOrderInput"]["properties"]["host"] = {"const": "127.0.0.1"}
            outcome = await explore(tmp_path, ports, base.partition("/services/")[0], token, 20)
    outcome.check(least=500)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Two nodes whose servers run what they are given."""
    made = World()
    for name in ("n1", "n2"):
        made.put(make_view(name))
    async with opened(made):
        yield made


async def test_benchmark(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark service, with a run that has ended and one that cannot be."""
    async with hub_double() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("JUPYTERHUB_API_URL", world.url + "/hub/api")
        local.announce(tmp_path / "run", "agentfarm", world.url + "/services/agentfarm/")
        config = {"NodeServers": {"proxy_url": world.url, "poll_interval": 0.02}, "Runner": {"poll_interval": 0.02}}
        app = BenchmarkApp(
            runtime_dir=str(tmp_path / "run"),
            data_dir=str(tmp_path),
            service_url="http://127.0.0.1:0",
            suites_dirs=[str(write_suite(tmp_path / "suites"))],
            config=Config(config),
        )
        async with service(app) as base:
            client = BenchmarkClient(runtime_dir=app.runtime_dir)
            run = await client.start("tiny")

            async def ended() -> bool:
                return (await client.run(run["id"]))["state"] == "completed"

            await eventually(ended, "the run has ended", timeout=20)
            await client.aclose()
            token = local.local_token(app.runtime_path)
            described = await fetched(base + "api/v1/openapi.json", token)
            chosen = narrowed(described, {"id": [run["id"], "20200101-000000-000000"]})
            outcome = await explore(tmp_path, chosen, base.partition("/services/")[0], token, 15)
    outcome.check(least=150)


def write_suite(folder: Path) -> Path:
    """Write a suite of one case into `folder`."""
    folder.mkdir()
    text = 'name = "tiny"\ntitle = "Tiny"\nsample_interval_seconds = 0.05\n'
    (folder / "tiny.toml").write_text(text + '[[case]]\nname = "one"\nnotebook = "linear_algebra.ipynb"\n')
    return folder


@asynccontextmanager
async def service(app: ServiceApp) -> AsyncIterator[str]:
    """Serve an application in this process; return its URL."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(app.close)
        stack.push_async_callback(close_shared_client)
        local.prepare(app.runtime_path)
        await app.open()
        server = app.listen()
        stack.push_async_callback(server.close_all_connections)
        stack.callback(server.stop)
        yield local.find_service(app.runtime_path, app.name)


async def test_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agents service, with tasks in several states; Hub and controller do not answer."""
    async with hub_double() as hub, AsyncExitStack() as stack:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        site = await stack.enter_async_context(agents_site(tmp_path, [make_agent("bot"), make_agent("twin")]))
        site.registry.patience = 0.01
        completed = await with_a_result(site.book)
        (going, _), waiting = await claimed(site.book), await submitted(site.book)
        token = site.token
        described = await fetched(site.url + "api/v1/openapi.json", token)
        ids = [completed.id, going.id, waiting.id, "0" * 16]
        chosen = narrowed(described, {"id": ids, "path": ["out/a.csv", "b"], "name": ["bot", "nobody"]})
        chosen["paths"]["/agents/{name}/retire"]["post"]["parameters"][0]["schema"] = {"const": "nobody"}
        body = chosen["components"]["schemas"]["TaskRequestInput"]["properties"]
        body["notebook"] = {"type": ["object", "null"], "enum": [notebook(), {"nbformat": 4}, None]}
        outcome = await explore(tmp_path, chosen, site.url.partition("/services/")[0], token, 8)
    outcome.check(least=500)


async def submitted(book: TaskBook) -> Task:
    """Return a task that is available."""
    return (await book.submit(TaskRequest(notebook={}), "bot", "ada", json.dumps(notebook()).encode()))[0]


async def claimed(book: TaskBook) -> tuple[Task, Attempt]:
    """Return a task that executes."""
    return await book.claim((await submitted(book)).id)


async def with_a_result(book: TaskBook) -> Task:
    """Return a task that has left a notebook and a file."""

    async def content() -> AsyncIterator[bytes]:
        yield b"a,b"

    _, attempt = await claimed(book)
    await book.keep_notebook(attempt, json.dumps(notebook()).encode())
    await book.keep_artifact(attempt, "out/a.csv", content())
    return await book.finish(attempt, "completed")


async def test_runs(tmp_path: Path) -> None:
    """The API of runs in a real Jupyter server, with a run that has ended; what it starts has no code."""
    server = Server(tmp_path, keep=3600)
    server.start()
    try:
        await server.ready()
        run = await server.execute("print(1)")
        base = server.url + "agentfarm/api/v1"
        described = await fetched(base + "/openapi.json", TOKEN)
        chosen = narrowed(described, {"id": [run["id"], "0" * 16]})
        body = chosen["components"]["schemas"]["RunRequestInput"]["properties"]
        body["notebook"] = {"type": ["object", "null"], "enum": [notebook(), {"nbformat": 4}, None]}
        outcome = await explore(tmp_path, chosen, server.url.rstrip("/"), TOKEN, 15)
        assert "] 500 " not in server.log(), server.log()[-6000:]
    finally:
        server.stop()
    outcome.check(least=100)
