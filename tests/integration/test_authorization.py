"""Who may what: every route of ours, asked by everybody, on a real Hub; and what our own tokens may do to the Hub.

A request that passes the authorization and then has something wrong with it is answered 400, 404 or 409: that way
the table asks for everything and changes nothing. A route without a row fails.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from agents_hub import AgentsHub
from hub_process import PASSWORD, HubProcess, hub_process
from ssh_node import ssh_node
from tornado import web
from waiting import eventually

from jupyterhub_agentfarm.agents.app import AgentsApp
from jupyterhub_agentfarm.benchmark import handlers as benchmark
from jupyterhub_agentfarm.controller import handlers as controller
from jupyterhub_agentfarm.notices import handlers as notices
from jupyterhub_agentfarm.runs import handlers as runs

pytestmark = [
    pytest.mark.hub,
    pytest.mark.sshd,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]

METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
RUN = "20261122-101010-abcdef"

#: Columns: nobody; another user; an agent's token, which has its own server alone; the owner; an admin; and an admin's
#: browser that sends a form without the XSRF token (0: the method changes nothing, and needs none).
Row = tuple[int, int, int, int, int, int]
WHO = ("nobody", "other", "agent", "owner", "admin", "form")

#: Everybody who may use the service; only who has a scope that users have not; the owner, and who may see all.
ALL: Row = (401, 200, 403, 200, 200, 0)
ADMIN: Row = (401, 403, 403, 403, 200, 0)
CHANGE: Row = (401, 403, 403, 403, 400, 401)
OWN: Row = (401, 404, 403, 200, 200, 0)
PAGE: Row = (302, 200, 403, 200, 200, 0)
SERVER: Row = (403, 403, 403, 200, 200, 0)

CONTROLLER: dict[str, Row] = {
    "GET ": PAGE,
    "GET metrics": ADMIN,
    "GET api/v1/nodes": ALL,
    "POST api/v1/nodes": CHANGE,
    "POST api/v1/nodes/scan": CHANGE,
    "GET api/v1/nodes/NODE": ALL,
    "DELETE api/v1/nodes/NODE": (401, 403, 403, 403, 409, 401),
    "GET api/v1/nodes/NODE/environment": ADMIN,
    "GET api/v1/nodes/NODE/strays": ADMIN,
    "GET api/v1/nodes/NODE/projects": ADMIN,
    "POST api/v1/nodes/NODE/restart-noded": CHANGE,
    "POST api/v1/nodes/NODE/cordon": CHANGE,
    "POST api/v1/nodes/NODE/uncordon": CHANGE,
    "POST api/v1/nodes/NODE/drain": CHANGE,
    "POST api/v1/nodes/NODE/keep": CHANGE,
    "POST api/v1/nodes/NODE/give-back": CHANGE,
    "GET api/v1/leases": ALL,
    "POST api/v1/leases": CHANGE,
    "GET api/v1/leases/LEASE": OWN,
    "DELETE api/v1/leases/LEASE": (401, 404, 403, 400, 400, 401),
    "POST api/v1/leases/LEASE/launch": CHANGE,
    "GET api/v1/leases/LEASE/log": OWN,
    "GET api/v1/queue": ALL,
    "GET api/v1/usage": ALL,
    "GET api/v1/owners/OWNER/limits": (401, 403, 403, 200, 200, 0),
    "PUT api/v1/owners/OWNER/limits": CHANGE,
    "DELETE api/v1/owners/OWNER/limits": (401, 403, 403, 403, 200, 401),
    "GET api/v1/placements": ADMIN,
    "GET api/v1/events": ALL,
    "GET api/v1/openapi.json": ALL,
}
BENCHMARK: dict[str, Row] = {
    "GET ": PAGE,
    "GET runs/RUN": (302, 404, 403, 404, 404, 0),
    "GET metrics": ADMIN,
    "GET api/v1/suites": ALL,
    "GET api/v1/runs": ALL,
    "POST api/v1/runs": CHANGE,
    "GET api/v1/runs/RUN": (401, 404, 403, 404, 404, 0),
    "POST api/v1/runs/RUN/cancel": CHANGE,
    "GET api/v1/runs/RUN/events": (401, 404, 403, 404, 404, 0),
    "GET api/v1/runs/RUN/report": (401, 404, 403, 404, 404, 0),
    "GET api/v1/runs/RUN/samples": (401, 404, 403, 404, 404, 0),
    "GET api/v1/openapi.json": ALL,
}
NO_TASK: Row = (401, 404, 403, 404, 404, 0)
NO_TASK_PAGE: Row = (302, 404, 403, 404, 404, 0)
SUBMIT: Row = (401, 400, 403, 400, 400, 401)
#: The agent `scout` is the owner's.
AGENTS: dict[str, Row] = {
    "GET ": PAGE,
    "GET connect": PAGE,
    "GET agents/scout": (302, 404, 403, 200, 200, 0),
    "GET tasks/ID": NO_TASK_PAGE,
    "GET tasks/ID/rendered": NO_TASK_PAGE,
    "GET metrics": ADMIN,
    "GET mcp": (401, 400, 403, 400, 400, 0),
    "POST mcp": SUBMIT,
    "DELETE mcp": (401, 400, 403, 400, 400, 401),
    "GET api/v1/agents": ALL,
    "POST api/v1/agents": CHANGE,
    "GET api/v1/agents/scout": OWN,
    "PATCH api/v1/agents/scout": CHANGE,
    "POST api/v1/agents/scout/token": CHANGE,
    "POST api/v1/agents/scout/suspend": CHANGE,
    "POST api/v1/agents/scout/resume": CHANGE,
    "POST api/v1/agents/scout/retire": CHANGE,
    "GET api/v1/openapi.json": ALL,
    "GET api/v1/tasks": ALL,
    "POST api/v1/tasks": SUBMIT,
    "GET api/v1/tasks/ID": NO_TASK,
    "DELETE api/v1/tasks/ID": (401, 404, 403, 404, 404, 401),
    "POST api/v1/tasks/ID/cancel": SUBMIT,
    "POST api/v1/tasks/ID/retry": SUBMIT,
    "POST api/v1/tasks/ID/handover": SUBMIT,
    "GET api/v1/tasks/ID/notebook": NO_TASK,
    "GET api/v1/tasks/ID/artifacts/1/x": NO_TASK,
    "GET api/v1/tasks/ID/events": NO_TASK,
    "GET api/v1/events": ALL,
}
GONE: Row = (403, 403, 403, 404, 404, 0)
RUNS: dict[str, Row] = {
    "GET agentfarm/api/v1/runs": SERVER,
    "POST agentfarm/api/v1/runs": (403, 403, 403, 400, 400, 403),
    "GET agentfarm/api/v1/runs/ID": GONE,
    "DELETE agentfarm/api/v1/runs/ID": (403, 403, 403, 404, 404, 403),
    "POST agentfarm/api/v1/runs/ID/cancel": (403, 403, 403, 404, 404, 403),
    "GET agentfarm/api/v1/runs/ID/events": GONE,
    "GET agentfarm/api/v1/runs/ID/notebook": GONE,
    "GET agentfarm/api/v1/runs/ID/results": GONE,
    "GET agentfarm/api/v1/runs/ID/artifacts": GONE,
    "GET agentfarm/api/v1/runs/ID/artifacts/x": GONE,
    "GET agentfarm/api/v1/runs/nothing": GONE,
    "GET agentfarm/api/v1/openapi.json": SERVER,
    "GET agentfarm/api/v1/notices": SERVER,
}

#: What the service's own token must not do to the Hub, and the little that it may: (method, path) -> statuses.
HUB_CALLS: dict[tuple[str, str], dict[str, int]] = {
    ("GET", "/user"): {"agentfarm": 200, "benchmark": 200, "agents": 200},
    ("GET", "/users"): {"agentfarm": 403, "benchmark": 403, "agents": 200},
    ("GET", "/users/ada"): {"agentfarm": 403, "benchmark": 404, "agents": 200},
    ("GET", "/users/benchmark"): {"agentfarm": 403, "benchmark": 200, "agents": 200},
    # Making and deleting users has one scope in JupyterHub, which can be bound to nothing.
    ("POST", "/users/eve"): {"agentfarm": 403, "benchmark": 403, "agents": 201},
    ("DELETE", "/users/nobody"): {"agentfarm": 403, "benchmark": 403, "agents": 404},
    ("PATCH", "/users/ada"): {"agentfarm": 403, "benchmark": 403, "agents": 200},
    ("POST", "/users/ada/server"): {"agentfarm": 403, "benchmark": 404, "agents": 404},
    ("DELETE", "/users/ada/server"): {"agentfarm": 403, "benchmark": 404, "agents": 404},
    ("GET", "/users/ada/tokens"): {"agentfarm": 403, "benchmark": 403, "agents": 404},
    ("POST", "/users/ada/tokens"): {"agentfarm": 403, "benchmark": 403, "agents": 403},
    ("POST", "/users/benchmark/tokens"): {"agentfarm": 403, "benchmark": 403, "agents": 403},
    ("GET", "/groups"): {"agentfarm": 403, "benchmark": 403, "agents": 200},
    ("POST", "/groups/ops"): {"agentfarm": 403, "benchmark": 403, "agents": 403},
    ("GET", "/services"): {"agentfarm": 403, "benchmark": 403, "agents": 403},
    ("GET", "/proxy"): {"agentfarm": 403, "benchmark": 403, "agents": 403},
    ("POST", "/proxy"): {"agentfarm": 403, "benchmark": 403, "agents": 403},
    ("POST", "/shutdown"): {"agentfarm": 403, "benchmark": 403, "agents": 403},
    ("GET", "/info"): {"agentfarm": 403, "benchmark": 403, "agents": 403},
}


@dataclass
class Farm:
    """A Hub with a node, ada's server on it, and everybody's tokens."""

    hub: HubProcess
    tokens: dict[str, str]
    lease: str

    def path(self, route: str) -> str:
        """Return the path of a row."""
        made = route.replace("NODE", "n1").replace("LEASE", self.lease).replace("RUN", RUN).replace("ID", "0" * 16)
        made = made.replace("OWNER", "ada")
        return made + ("?grace_seconds=-1" if made.endswith(self.lease) else "")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    """One Hub for all."""
    services = {"AGENTFARM_SERVICES": "agentfarm,benchmark,agents"}
    async with (
        ssh_node("n1", "127.0.0.11", sys.executable, simulated_gpus=1) as node,
        hub_process([node.spec], **services) as hub,
    ):
        tokens = {"admin": hub.token, "owner": await hub.add_user("ada"), "other": await hub.add_user("bob")}
        await hub.add_user("helper")
        body = {"scopes": ["access:servers!user=helper"], "note": "an agent"}
        status, made = await hub.api("POST", "/users/helper/tokens", body)
        assert status == 201, made
        tokens["agent"] = made["token"]

        async def eligible() -> bool:
            return any(each["eligible"] for each in await hub.farm.nodes())

        await eventually(eligible, "n1 is ready", timeout=60)
        await hub.start_server("ada")
        await AgentsHub(hub).register("scout")
        (lease,) = await hub.farm.leases()
        yield Farm(hub, tokens, lease.id)


def methods_of(handler: Any) -> list[str]:
    """Return the methods that a handler of ours implements."""
    unset = web.RequestHandler._unimplemented_method
    found = [name for name in METHODS if getattr(handler, name.lower()) is not unset]
    return [name for name in found if "jupyterhub_agentfarm" in getattr(handler, name.lower()).__module__]


def unlisted(routes: list[tuple[Any, ...]], rows: dict[str, Row], farm: Farm) -> list[str]:
    """Return the routes and methods that no row asks for, and rows that no route takes."""
    asked = [(key.partition(" ")[0], farm.path(key.partition(" ")[2]).partition("?")[0]) for key in rows]
    missing = []
    for pattern, handler, *_ in routes:
        fitting = {method for method, path in asked if re.fullmatch(pattern, path)}
        missing += [f"{method} {pattern}" for method in methods_of(handler) if method not in fitting]
    patterns = [pattern for pattern, *_ in routes]
    missing += [path for _, path in asked if not any(re.fullmatch(pattern, path) for pattern in patterns)]
    return missing


async def ask(session: aiohttp.ClientSession, method: str, url: str, token: str | None = None, **options: Any) -> int:
    """Return the status of a request; the body of a stream is not waited for."""
    headers = {"Authorization": f"token {token}"} if token else {}
    async with session.request(method, url, headers=headers, allow_redirects=False, **options) as answer:
        if answer.status >= 500:
            raise AssertionError(f"{method} {url}: {answer.status} {await answer.text()}")
        return answer.status


async def log_in(session: aiohttp.ClientSession, hub: HubProcess) -> None:
    """Log a browser in as the admin, at the Hub, its services and ada's server."""
    async with session.get(f"{hub.url}/hub/login") as page:
        await page.read()
    form = {"username": "admin", "password": PASSWORD}
    form["_xsrf"] = session.cookie_jar.filter_cookies(aiohttp.client.URL(f"{hub.url}/hub/"))["_xsrf"].value
    async with session.post(f"{hub.url}/hub/login", data=form, allow_redirects=False) as answer:
        assert answer.status == 302, await answer.text()
    navigate = {"Sec-Fetch-Mode": "navigate", "Accept": "text/html"}
    for path in ("/services/agentfarm/", "/services/benchmark/", "/services/agents/", "/user/ada/lab"):
        async with session.get(hub.url + path, headers=navigate) as answer:
            text = await answer.text()
            if answer.status == 200 and 'name="scopes"' in text:  # ada's server asks the admin for confirmation
                data = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', text))
                async with session.post(answer.url, data=data, headers={"Referer": str(answer.url)}) as confirmed:
                    assert confirmed.status == 200, await confirmed.text()
            assert answer.status == 200, f"{path}: {answer.status} {text[:500]}"


async def statuses(farm: Farm, base: str, rows: dict[str, Row]) -> dict[str, Row]:
    """Ask for every row as everybody."""
    found: dict[str, list[int]] = {key: [] for key in rows}
    async with aiohttp.ClientSession() as session:
        for who in WHO[:-1]:
            for key in rows:
                method, _, route = key.partition(" ")
                body = {"json": {"unknown": 1}} if method in ("POST", "PUT", "PATCH") else {}
                found[key].append(await ask(session, method, base + farm.path(route), farm.tokens.get(who), **body))
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        await log_in(browser, farm.hub)
        for key in rows:
            method, _, route = key.partition(" ")
            form = {"data": {"unknown": "1"}} if method == "POST" else {}
            status = 0 if method == "GET" else await ask(browser, method, base + farm.path(route), **form)
            found[key].append(status)
    return {key: (row[0], row[1], row[2], row[3], row[4], row[5]) for key, row in found.items()}


def compare(found: dict[str, Row], rows: dict[str, Row]) -> None:
    """Fail with every cell that differs."""
    wrong = [
        f"{key or '(page)'}: {who} gets {got}, not {wanted}"
        for key, row in rows.items()
        for who, got, wanted in zip(WHO, found[key], row, strict=True)
        if got != wanted
    ]
    assert not wrong, "\n" + "\n".join(wrong)


async def test_controller(farm: Farm) -> None:
    """Every route of the controller."""
    assert unlisted(controller.ROUTES, CONTROLLER, farm) == []
    compare(await statuses(farm, f"{farm.hub.url}/services/agentfarm/", CONTROLLER), CONTROLLER)
    assert (await farm.hub.farm.node("n1"))["eligible"]


async def test_benchmark(farm: Farm) -> None:
    """Every route of the benchmark service."""
    assert unlisted(benchmark.routes(), BENCHMARK, farm) == []
    compare(await statuses(farm, f"{farm.hub.url}/services/benchmark/", BENCHMARK), BENCHMARK)


async def test_agents(farm: Farm) -> None:
    """Every route of the agents service."""
    assert unlisted(AgentsApp().handlers(), AGENTS, farm) == []
    compare(await statuses(farm, f"{farm.hub.url}/services/agents/", AGENTS), AGENTS)


async def test_runs(farm: Farm) -> None:
    """Every route of runs and notices in ada's server, through the proxy."""
    made = [*runs.handlers("/", None), *notices.handlers("/")]  # type: ignore[arg-type]
    routes = [(pattern.removeprefix("/"), *rest) for pattern, *rest in made]
    assert unlisted(routes, RUNS, farm) == []
    compare(await statuses(farm, f"{farm.hub.url}/user/ada/", RUNS), RUNS)


async def test_a_token_in_the_address_is_none(farm: Farm) -> None:
    """A token in the address of a request does not count: it would be in logs and histories."""
    async with aiohttp.ClientSession() as session:
        url = f"{farm.hub.url}/services/agentfarm/api/v1/nodes?token={farm.tokens['admin']}"
        assert await ask(session, "GET", url) == 401


def token_of(hub: HubProcess, service: str) -> str:
    """Return the Hub token that a service was given."""
    for process in hub.processes():
        environment = process.environ()
        if environment.get("JUPYTERHUB_SERVICE_NAME") == service:
            return environment["JUPYTERHUB_API_TOKEN"]
    raise AssertionError(f"the service {service} does not run")


@pytest.mark.parametrize("service", ["agentfarm", "benchmark", "agents"])
async def test_the_services_own_tokens(farm: Farm, service: str) -> None:
    """What a service's token is not for, the Hub refuses or hides."""
    token = token_of(farm.hub, service)
    wrong = []
    for (method, path), wanted in HUB_CALLS.items():
        status, body = await farm.hub.api(method, path, {} if method in ("POST", "PATCH") else None, token=token)
        if status != wanted[service]:
            wrong.append(f"{method} {path}: {status}, not {wanted[service]}: {body}")
    assert not wrong, "\n" + "\n".join(wrong)


async def test_the_agents_service_makes_no_admins(farm: Farm) -> None:
    """It may make users, but neither an admin nor a member of a group other than agents."""
    token = token_of(farm.hub, "agents")
    for method, path, body in (
        ("POST", "/users/root", {"admin": True}),
        ("PATCH", "/users/ada", {"admin": True}),
        ("PATCH", "/users/admin", {"name": "root"}),
        ("POST", "/groups/agentfarm-benchmark/users", {"users": ["ada"]}),
    ):
        status, answer = await farm.hub.api(method, path, body, token=token)
        assert status in (403, 404), f"{method} {path}: {status} {answer}"


async def test_the_benchmark_reads_the_farm_and_may_only_keep_nodes(farm: Farm) -> None:
    """Its token sees nodes and leases at the controller and may keep nodes for its runs: no other mark, no lease."""
    token = token_of(farm.hub, "benchmark")
    base = f"{farm.hub.url}/services/agentfarm/api/v1/"
    async with aiohttp.ClientSession() as session:
        for method, path, wanted in (
            ("GET", "nodes", 200),
            ("GET", f"leases/{farm.lease}", 200),
            ("POST", "nodes/n1/cordon", 403),
            ("POST", "nodes/n1/drain", 403),
            ("POST", "nodes/n1/keep", 400),
            ("POST", "leases", 403),
            ("DELETE", f"leases/{farm.lease}", 403),
            ("GET", f"leases/{farm.lease}/log", 403),
        ):
            assert await ask(session, method, base + path, token) == wanted, f"{method} {path}"
