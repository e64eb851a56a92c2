"""The description of the registry's part of the API, one operation for each path and method."""

from __future__ import annotations

from ...errors import AgentFarmError, ConflictError, HubApiError, NotFoundError
from ...openapi import Operation, Query
from ...records_schema import Schema, Schemas
from ...services.handlers import NoOrder
from ..models import Agent, AgentRequest, NewToken
from . import handlers
from .requests import AgentChange, RetireRequest, SuspendRequest, TokenRequest
from .views import AgentServer, AgentUsage

#: Schemas of what varies in the paths.
PARAMETERS: dict[str, Schema] = {"name": {"type": "string", "minLength": 1, "maxLength": 63}}


def operations(schemas: Schemas) -> list[Operation]:
    """Return the operations of the registry."""
    view, token = agent_view(schemas), schemas.answered(NewToken)
    missing: tuple[type[AgentFarmError], ...] = (NotFoundError,)
    change = (*missing, ConflictError, HubApiError)
    retired = Query("all", {"enum": ["", "1"]}, "With 1, agents that are retired too.")
    listed, made = _object({"agents": _list(view)}), _object({"agent": view, "token": token})
    each = "agents/{name}"
    accepted = schemas.accepted
    return [
        Operation("GET", "agents", handlers.AgentsListHandler, listed, query=(retired,)),
        Operation("POST", "agents", handlers.AgentsListHandler, made, 201, body=accepted(AgentRequest),
                  errors=(ConflictError, HubApiError)),
        Operation("GET", each, handlers.AgentHandler, view, errors=missing),
        Operation("PATCH", each, handlers.AgentHandler, view, body=accepted(AgentChange), errors=change),
        Operation("POST", f"{each}/token", handlers.TokenHandler, token, 201, body=accepted(TokenRequest),
                  errors=change),
        Operation("POST", f"{each}/suspend", handlers.SuspendHandler, view, also=(202,),
                  body=accepted(SuspendRequest), errors=change),
        Operation("POST", f"{each}/resume", handlers.ResumeHandler, view, also=(202,),
                  body=accepted(NoOrder), errors=change),
        Operation("POST", f"{each}/retire", handlers.RetireHandler, view, also=(202,), body=accepted(RetireRequest),
                  errors=change),
    ]  # fmt: skip


def agent_view(schemas: Schemas) -> Schema:
    """Return the schema of an agent with what there is to see of it."""
    usage = {"anyOf": [schemas.answered(AgentUsage), {"type": "null"}]}
    return schemas.extended(
        "AgentView",
        Agent,
        servers=_list(schemas.answered(AgentServer)),
        usage=usage,
        tasks={"type": "object", "additionalProperties": {"type": "integer"}},
        kept_bytes={"type": "integer"},
        max_kept_bytes={"type": "integer"},
        left_to_do={"type": "string"},
    )


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}
