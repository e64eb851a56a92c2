"""The description of the controller's API: one operation for each path and method of :mod:`.handlers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import (
    ConflictError,
    FarmUnavailable,
    InvalidField,
    NotFoundError,
    PlacementRefused,
    QuotaExceeded,
    ServerDied,
)
from ..isolation import Isolation, ResourceLimits
from ..models import (
    HOST_NAME,
    Explanation,
    Gpu,
    LaunchOrder,
    Lease,
    Node,
    NodeSpec,
    OwnerLimits,
    PlacementRequest,
    Telemetry,
    UserOptions,
)
from ..openapi import NODE_ERRORS, Api, Operation, Query, document
from ..protocol import ProjectsReport
from ..records_schema import Rules, Schema, Schemas
from ..server.versions import ServerEnvironment
from ..services.description import REFUSALS, SECURITY, DescriptionHandler
from ..services.handlers import NoOrder
from . import handlers, keeping
from .handlers import MAX_GRACE_SECONDS, MAX_HISTORY, MAX_LOG_LINES, MarkOrder, ScanOrder
from .keeping import GiveBackOrder, KeepOrder
from .owner_handlers import OwnerLimitsHandler
from .strays import Strays
from .usage import OwnerUsage, PoolUsage

_TITLE = "agentfarm controller"
_DESCRIPTION = (
    "The nodes of the farm, the leases of their GPUs, and the waiting line. Times are seconds since the epoch, "
    "durations seconds, sizes bytes; what is not known is null. Every error is {message, reason} and facts."
)
_PORT = {"minimum": 1, "maximum": 65535}
_NAME = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
_HOST = {"pattern": f"^{HOST_NAME.pattern}$"}
_LEASE = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_TEXT = {"type": ["string", "null"]}

#: What the records of requests check beyond their annotations.
RULES: Rules = {
    NodeSpec: {
        "name": {"pattern": _NAME["pattern"]},
        "host": _HOST,
        "address": _HOST,
        "port": _PORT,
        "simulated_gpus": {"minimum": 0, "maximum": 16},
        "port_range": {"items": {"type": "integer", **_PORT}, "minItems": 2, "maxItems": 2},
        "noded_args": {
            "items": {
                "type": "string",
                "pattern": r"^--(?!state-dir=|simulated-gpus=)[A-Za-z][A-Za-z0-9_.-]*=",
            }
        },
    },
    Isolation: {
        "account": {"pattern": r"\{username\}"},
        "project_group": {"pattern": r"\{project\}"},
        "projects": {"pattern": r"^(?![^:]*/\.\.(/|$))(?=[^:]*/(?!\.?(/|$)))/[^:\x00]*$"},
        "": {
            "allOf": [
                {
                    "if": {"properties": {"create_accounts": {"const": True}}, "required": ["create_accounts"]},
                    "then": {"properties": {"account": {"type": "string"}}, "required": ["account"]},
                },
                {
                    "if": {"properties": {"sandbox": {"const": "container"}}, "required": ["sandbox"]},
                    "then": {"properties": {"image": {"type": "string"}}, "required": ["image"]},
                    "else": {"properties": {"image": {"type": "null"}}},
                },
            ]
        },
    },
    ResourceLimits: {
        "memory_bytes": {"minimum": 2**20},
        "cpus": {"exclusiveMinimum": 0},
        "processes": {"minimum": 1},
    },
    UserOptions: {
        "node": {"pattern": _NAME["pattern"]},
        "gpus": {"minimum": 0, "maximum": 16},
        "gpu_memory_bytes": {"minimum": 0},
        "gpu_model": {"maxLength": 100},
        "priority": {"minimum": -100, "maximum": 100},
        "kernel": {"pattern": r"^[A-Za-z0-9._-]{0,100}$"},
        "cpus": {"minimum": 0, "maximum": 100_000},
        "memory_bytes": {"minimum": 0, "maximum": 2**50},
    },
    OwnerLimits: {
        "servers": {"minimum": 0, "maximum": 100_000},
        "gpus": {"minimum": 0, "maximum": 100_000},
        "gpu_hours": {"minimum": 0, "maximum": 1e9},
        "labels": {
            "maxProperties": 32,
            "propertyNames": {"maxLength": 100},
            "additionalProperties": {"type": "string", "maxLength": 100},
        },
        "kernels": {"maxItems": 100, "items": {"type": "string", "pattern": r"^[A-Za-z0-9._-]{1,100}$"}},
    },
    LaunchOrder: {
        "command": {"minItems": 1, "prefixItems": [{"type": "string", "minLength": 1}]},
        "base_url": {"pattern": "^/"},
    },
    ScanOrder: {"host": _HOST, "port": _PORT},
    MarkOrder: {"deadline_seconds": {"minimum": 0}},
    KeepOrder: {"deadline_seconds": {"minimum": 0}, "owner": {"minLength": 1}},
}


def description(base: str) -> dict[str, Any]:
    """Return the OpenAPI document of the API at `base`."""
    schemas = Schemas(RULES)
    operations = [*_nodes(schemas), *_leases(schemas), *_lists(schemas)]
    api = Api(
        title=_TITLE,
        description=_DESCRIPTION,
        base=base,
        parameters={"name": _NAME, "id": _LEASE, "owner": {"type": "string", "minLength": 1, "maxLength": 255}},
        refusals=REFUSALS,
        security=SECURITY,
        errors=(FarmUnavailable,),
    )
    return document(api, operations, schemas)


def _nodes(schemas: Schemas) -> list[Operation]:
    view, missing = _node_view(schemas), (NotFoundError,)
    mark, none = schemas.accepted(MarkOrder), schemas.accepted(NoOrder)
    scanned = _object(host_key={"type": "string"}, fingerprint={"type": "string"})
    marks = handlers.NodeMarkHandler
    return [
        Operation("GET", "nodes", handlers.NodesHandler, _object(nodes=_list(view))),
        Operation(
            "POST", "nodes", handlers.NodesHandler, view, 201, body=_pinned(schemas), errors=(ConflictError,),
        ),
        Operation(
            "POST", "nodes/scan", handlers.ScanHandler, scanned, body=schemas.accepted(ScanOrder), errors=NODE_ERRORS,
        ),
        Operation("GET", "nodes/{name}", handlers.NodeHandler, view, errors=missing),
        Operation("DELETE", "nodes/{name}", handlers.NodeHandler, _object(), errors=(*missing, ConflictError)),
        Operation("GET", "nodes/{name}/environment", handlers.EnvironmentHandler,
                  schemas.answered(ServerEnvironment), errors=(*missing, *NODE_ERRORS)),
        Operation("GET", "nodes/{name}/strays", handlers.StraysHandler, schemas.answered(Strays),
                  errors=(*missing, *NODE_ERRORS)),
        Operation("GET", "nodes/{name}/projects", handlers.ProjectsHandler, schemas.answered(ProjectsReport),
                  errors=(*missing, *NODE_ERRORS)),
        Operation("POST", "nodes/{name}/restart-noded", handlers.RestartNodedHandler, view, body=none,
                  errors=(*missing, *NODE_ERRORS)),
        Operation("POST", "nodes/{name}/cordon", marks, view, body=mark, errors=missing),
        Operation("POST", "nodes/{name}/drain", marks, view, body=mark, errors=missing),
        Operation("POST", "nodes/{name}/uncordon", marks, view, body=none, errors=missing),
        Operation("POST", "nodes/{name}/keep", keeping.KeepHandler, view, body=schemas.accepted(KeepOrder),
                  errors=(*missing, ConflictError)),
        Operation("POST", "nodes/{name}/give-back", keeping.GiveBackHandler, view,
                  body=schemas.accepted(GiveBackOrder), errors=missing),
    ]  # fmt: skip


def _leases(schemas: Schemas) -> list[Operation]:
    lease, missing = schemas.answered(Lease), (NotFoundError,)
    request, launch = schemas.accepted(PlacementRequest), schemas.accepted(LaunchOrder)
    every = Query("all", {"enum": ["0", "1"]}, "1: released leases too, the latest of them.")
    refused = (PlacementRefused, QuotaExceeded, ConflictError)
    return [
        Operation("GET", "leases", handlers.LeasesHandler, _object(leases=_list(lease)), query=(every,)),
        Operation("POST", "leases", handlers.LeasesHandler, lease, 201, body=request, errors=refused),
        Operation("GET", "leases/{id}", handlers.LeaseHandler, lease, errors=missing),
        Operation(
            "DELETE", "leases/{id}", handlers.LeaseHandler, lease, errors=missing,
            query=(_number("grace_seconds", MAX_GRACE_SECONDS, "Seconds until the server is killed."),),
        ),
        Operation("POST", "leases/{id}/launch", handlers.LaunchHandler, lease, body=launch,
                  errors=(*missing, ConflictError, ServerDied, *NODE_ERRORS)),
        Operation("GET", "leases/{id}/log", handlers.LogHandler, _object(text={"type": "string"}),
                  errors=(*missing, *NODE_ERRORS), query=(_number("lines", MAX_LOG_LINES, "Most lines."),)),
    ]  # fmt: skip


def _lists(schemas: Schemas) -> list[Operation]:
    waiting = _object(
        position={"type": ["integer", "null"]},
        owner=_TEXT,
        server_name=_TEXT,
        lease=_TEXT,
        may_cancel={"type": "boolean"},
        options=schemas.answered(UserOptions),
        created_at={"type": "number"},
        detail={"type": "string"},
    )
    why = {"anyOf": [schemas.answered(Explanation), {"type": "null"}]}
    text = {"type": "string"}
    placed = _object(lease=text, owner=text, server_name=text, node=_TEXT, why=why)
    limit = _number("limit", MAX_HISTORY, "Most entries.")
    owners, pools = _list(schemas.answered(OwnerUsage)), _list(schemas.answered(PoolUsage))
    used = _object(window_seconds={"type": "number"}, usage=owners, pools=pools)
    return [
        Operation("GET", "queue", handlers.QueueHandler, _object(queue=_list(waiting))),
        Operation("GET", "usage", handlers.UsageHandler, used),
        *_owner_limits(schemas),
        Operation(
            "GET", "placements", handlers.PlacementsHandler, _object(placements=_list(placed)), query=(limit,)
        ),
        Operation("GET", "events", handlers.EventsHandler, None, media={"text/event-stream": {"type": "string"}}),
        Operation("GET", "openapi.json", DescriptionHandler, {"type": "object"}),
    ]  # fmt: skip


def _owner_limits(schemas: Schemas) -> list[Operation]:
    path, handler, limits = "owners/{owner}/limits", OwnerLimitsHandler, schemas.answered(OwnerLimits)
    return [
        Operation("GET", path, handler, limits, errors=(InvalidField,)),
        Operation("PUT", path, handler, limits, body=schemas.accepted(OwnerLimits)),
        Operation("DELETE", path, handler, _object(), errors=(InvalidField,)),
    ]


def _node_view(schemas: Schemas) -> Schema:
    """Return the schema of what :func:`.views.node_view` makes."""
    leased: dict[str, Any] = {"leased": {"type": "boolean"}, "lease": _TEXT, "owner": _TEXT}
    gpu = schemas.extended("GpuView", Gpu, **leased)
    telemetry = schemas.extended("TelemetryView", Telemetry, gpus=_list(gpu))
    spec = schemas.extended("NodeSpecView", NodeSpec, ("ssh_keyfile",))
    return schemas.extended(
        "NodeView",
        Node,
        spec=spec,
        telemetry={"anyOf": [telemetry, {"type": "null"}]},
        name={"type": "string"},
        status={"enum": ["ready", "unreachable", "down", "cordoned", "draining"]},
        eligible={"type": "boolean"},
        address={"type": "string"},
        isolation=schemas.answered(Isolation),
    )


def _pinned(schemas: Schemas) -> Schema:
    """Return the schema of a node that is added: its host key must be given."""
    return {**schemas.accepted(NodeSpec), "required": ["host_key"], "properties": {"host_key": {"type": "string"}}}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(**properties: Mapping[str, Any]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _number(name: str, most: float, text: str) -> Query:
    return Query(name, {"type": "number", "minimum": 0, "maximum": most}, text)
