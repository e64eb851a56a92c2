"""The schemas of records say what the records themselves accept and make, no more and no less."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.api import RULES as BENCHMARK_RULES
from jupyterhub_agentfarm.benchmark.models import RunRequest as BenchmarkRequest
from jupyterhub_agentfarm.controller.api import RULES as FARM_RULES
from jupyterhub_agentfarm.controller.handlers import MarkOrder, ScanOrder
from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.isolation import Isolation, ResourceLimits
from jupyterhub_agentfarm.models import (
    LaunchOrder,
    Lease,
    Node,
    NodeSpec,
    OwnerLimits,
    PlacementRequest,
    Telemetry,
    UserOptions,
)
from jupyterhub_agentfarm.records import from_json, to_json
from jupyterhub_agentfarm.records_schema import Schemas, comments_of

ACCEPTED = (
    NodeSpec, UserOptions, PlacementRequest, LaunchOrder, Isolation, ResourceLimits, ScanOrder, MarkOrder,
    BenchmarkRequest,
)  # fmt: skip
#: Values at and around what the records compare with, for any field.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-101, -100, -1, 0, 1, 16, 17, 22, 100, 65535, 65536, 2**20 - 1, 2**20, 0.5, -0.5, 101.5]),
    st.sampled_from(["", "a", "-a", "a" * 64, "a" * 100, "a" * 101, "/x", "hub-{username}", "{username}", "--a=b"]),
    st.sampled_from(["--state-dir=x", "--simulated-gpus=1", "microserver", "gpuserver", "container", "bubblewrap"]),
    st.sampled_from(
        [
            "::1",
            "a..b",
            "a.b.",
            "fe80::1%eth0",
            "never",
            "on-node-failure",
            "http",
            "https",
            "inherit",
            "port",
            "docker",
            "podman",
            "none",
        ]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "name"]), inner, max_size=2),
    max_leaves=4,
)

RULES = {**FARM_RULES, **BENCHMARK_RULES}


def schema_of(cls: type, *, answered: bool = False) -> jsonschema.Draft202012Validator:
    """Return a validator of what a record accepts, or makes."""
    schemas = Schemas(RULES)
    reference = schemas.answered(cls) if answered else schemas.accepted(cls)
    document = {**reference, "components": {"schemas": schemas.definitions}}
    made: jsonschema.Draft202012Validator = VALIDATOR(document)
    return made


#: To JSON Schema 1.0 is a whole number; to the records it is not, as it is not to Python.
STRICT = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
    "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
)
VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=STRICT)
GOOD: dict[type, dict[str, Any]] = {
    NodeSpec: {"name": "gpu01", "host": "10.0.0.1", "noded_args": ["--telemetry-interval=5"], "isolation": {}},
    UserOptions: {"node": "gpu01", "gpus": 1, "labels": {"room": "b"}, "restart": "never", "kernel": "ir"},
    OwnerLimits: {"servers": 1, "gpus": 0, "gpu_hours": 0.5, "labels": {"room": "b"}, "kernels": ["ir"]},
    PlacementRequest: {"owner": "ada", "server_name": "", "options": {"gpus": 1}, "cpus": 1, "groups": ["g"]},
    LaunchOrder: {"command": ["x", ""], "base_url": "/user/ada/", "limits": {"cpus": 0.5}, "environment": {"A": "b"}},
    Isolation: {"account": "{username}", "create_accounts": True, "sandbox": "container", "image": "x"},
    ResourceLimits: {"memory_bytes": 2**20, "cpus": 0.5, "processes": 1},
    ScanOrder: {"host": "h", "port": 22},
    MarkOrder: {"reason": "why", "deadline_seconds": 0},
    BenchmarkRequest: {"suite": "smoke", "nodes": ["a"], "parameters": {"a": [1, {"b": None}]}},
}


@st.composite
def bodies(draw: st.DrawFn) -> tuple[type, dict[str, Any]]:
    """Draw a record's class and a body: a good one of which some fields are changed, left out or added."""
    cls = draw(st.sampled_from(ACCEPTED))
    body = dict(GOOD[cls])
    names = [*_properties(cls), "unknown"]
    for name in draw(st.lists(st.sampled_from(names), max_size=3, unique=True)):
        if draw(st.booleans()) and name in body:
            del body[name]
        else:
            body[name] = draw(VALUES)
    return cls, body


def _properties(cls: type) -> list[str]:
    schemas = Schemas(RULES)
    schemas.accepted(cls)
    return list(schemas.definitions[f"{cls.__name__}Input"]["properties"])


def accepts(cls: type, body: Any) -> bool:
    """Whether `from_json` takes it."""
    try:
        from_json(cls, body)
    except InvalidField:
        return False
    return True


@given(bodies())
@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
def test_the_schema_and_the_record_agree(drawn: tuple[type, dict[str, Any]]) -> None:
    """What from_json accepts validates, and what validates is accepted; but for the order of two ports."""
    cls, body = drawn
    ports = body.get("port_range") if cls is NodeSpec else None
    valid = schema_of(cls).is_valid(body)
    if isinstance(ports, list) and len(ports) == 2 and ports != sorted(ports, key=str) and valid:
        return  # JSON Schema cannot compare two items
    assert accepts(cls, body) == valid, (cls, body)


@pytest.mark.parametrize("cls", ACCEPTED)
def test_a_good_body_is_good_to_both(cls: type) -> None:
    """The bodies that the property starts from are valid, whole and in their least form."""
    assert accepts(cls, GOOD[cls])
    assert schema_of(cls).is_valid(GOOD[cls])
    assert not schema_of(cls).is_valid({**GOOD[cls], "unknown": 1})


def test_an_answer_has_every_field() -> None:
    """What to_json makes is valid as an answer, and is not when a field is gone or one more is there."""
    request = PlacementRequest("ada", "", UserOptions(gpus=1))
    lease = Lease("0" * 32, "ada", "", "waiting", 0, request, 1.5, position=1)
    made = json.loads(json.dumps(to_json(lease)))
    validator = schema_of(Lease, answered=True)
    validator.validate(made)
    assert not validator.is_valid({key: value for key, value in made.items() if key != "why"})
    assert not validator.is_valid(made | {"secret": 1})
    node = json.loads(json.dumps(to_json(Node(NodeSpec("a", "h"), "down", "", 0.0))))
    schema_of(Node, answered=True).validate(node)


def test_comments_are_descriptions() -> None:
    """The comment above a field describes it, over several lines too; a field without one has none."""
    comments: Mapping[str, str] = comments_of(Telemetry)
    assert comments["time"] == "The node's own clock when the sample was taken."
    assert comments["cpus"] == ""
    assert comments_of(NodeSpec)["address"].endswith("`host` where that is not known.")
