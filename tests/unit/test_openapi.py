"""The descriptions of the APIs name every route, and nothing that is not there."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from tornado import web

from jupyterhub_agentfarm import errors
from jupyterhub_agentfarm.agents import api as agents_api
from jupyterhub_agentfarm.agents.registry import handlers as agent_handlers
from jupyterhub_agentfarm.agents.tasks import handlers as task_handlers
from jupyterhub_agentfarm.benchmark import api as benchmark_api
from jupyterhub_agentfarm.benchmark import handlers as benchmark
from jupyterhub_agentfarm.controller import api as controller_api
from jupyterhub_agentfarm.controller import handlers as controller
from jupyterhub_agentfarm.openapi import fixed_reasons
from jupyterhub_agentfarm.runs import api as runs_api
from jupyterhub_agentfarm.runs import handlers as runs

METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH")
#: What stands for the variable parts of paths.
SAMPLES = {
    "controller": {"name": "gpu01", "id": "0" * 32, "owner": "ada"},
    "benchmark": {"id": "20261122-101010-abcdef"},
    "runs": {"id": "0" * 16, "path": "a.csv"},
    "agents": {"id": "0" * 16, "path": "out/a.csv", "name": "scout"},
}
#: Routes that are no part of an API: pages for people, and the metrics, whose format is Prometheus' own.
PAGES = {
    "controller": {r"", r"metrics"},
    "benchmark": {r"", r"runs/([0-9]{8}-[0-9]{6}-[0-9a-f]{6})", r"metrics"},
    "runs": set(),
    "agents": set(),
}
APIS = {
    "controller": (controller.ROUTES, controller_api.description("/services/agentfarm/api/v1")),
    "benchmark": (benchmark.routes(), benchmark_api.description("/services/benchmark/api/v1")),
    "runs": (
        [(pattern.removeprefix("/agentfarm/"), handler) for pattern, handler, _ in runs.handlers("/", None)],  # type: ignore[arg-type]
        runs_api.description("/user/ada/agentfarm/api/v1"),
    ),
    "agents": (
        [*agent_handlers.ROUTES, *task_handlers.ROUTES],
        agents_api.description("/services/agents/api/v1"),
    ),
}
params = pytest.mark.parametrize("name", APIS)


def methods_of(handler: Any) -> set[str]:
    """Return the methods that a handler implements."""
    unset = web.RequestHandler._unimplemented_method
    own = {name for name in METHODS if getattr(handler, name.lower()) is not unset}
    return {name for name in own if "jupyterhub_agentfarm" in getattr(handler, name.lower()).__module__}


def described(name: str) -> set[tuple[str, str]]:
    """Return method and an example of the path of every operation."""
    paths = APIS[name][1]["paths"]
    return {
        (method.upper(), "api/v1" + path.format(**SAMPLES[name])) for path, item in paths.items() for method in item
    }


@params
def test_every_route_is_described(name: str) -> None:
    """Each method of each route that is no page has an operation whose path it takes."""
    routes, operations = APIS[name][0], described(name)
    for pattern, handler in routes:
        if pattern in PAGES[name]:
            continue
        for method in methods_of(handler):
            matching = [path for verb, path in operations if verb == method and re.fullmatch(pattern, path)]
            assert matching, f"{method} {pattern} has no operation"
            words = re.search(r"\(([a-z|]+)\)$", pattern)
            assert len(matching) >= (len(words[1].split("|")) if words else 1), f"{pattern} has too few operations"


@params
def test_every_operation_has_a_route(name: str) -> None:
    """Each operation's path and method are those of the first route that takes the path."""
    for method, path in described(name):
        handler = next((handler for pattern, handler in APIS[name][0] if re.fullmatch(pattern, path)), None)
        assert handler is not None, path
        assert method in methods_of(handler), f"{method} {path}"


@params
def test_the_description_is_whole(name: str) -> None:
    """References lead somewhere, schemas are schemas, operations have names of their own and sentences."""
    document = APIS[name][1]
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    referred = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert referred == set(schemas) - {unused for unused in schemas if unused not in referred and unused != "Error"}
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["summary"].endswith(".") and operation["security"] for operation in operations)


def test_scopes_are_those_of_the_handlers() -> None:
    """What an operation says it needs is what its handler checks."""
    document = APIS["controller"][1]
    drain = document["paths"]["/nodes/{name}/drain"]["post"]
    assert drain["security"][0] == {"hubToken": [controller.NODES_MANAGE]}
    assert document["paths"]["/leases/{id}"]["get"]["security"][0] == {"hubToken": []}


def test_reasons_are_fixed() -> None:
    """Every class of errors has its reason in the schema of errors."""
    reasons = set(fixed_reasons())
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {kind.reason for kind in kinds} <= reasons
    assert {"unauthenticated", "forbidden", "too_large", "content_type"} <= reasons
