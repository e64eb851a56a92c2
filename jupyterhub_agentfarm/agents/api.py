"""The description of the agents service's API."""

from __future__ import annotations

from typing import Any

from ..errors import FarmUnavailable
from ..openapi import Api, Operation, document
from ..records_schema import Schemas
from ..services.description import REFUSALS, SECURITY, DescriptionHandler
from .registry import api as agent_api
from .tasks import api as task_api

_DESCRIPTION = "AI agents, their tokens and their tasks. Every error is {message, reason} and facts."


def description(base: str) -> dict[str, Any]:
    """Return the OpenAPI document of the API at `base`."""
    schemas = Schemas(task_api.RULES)
    api = Api(
        title="agentfarm agents",
        description=_DESCRIPTION,
        base=base,
        parameters=agent_api.PARAMETERS | task_api.PARAMETERS,
        refusals=REFUSALS,
        security=SECURITY,
        errors=(FarmUnavailable,),
    )
    itself = Operation("GET", "openapi.json", DescriptionHandler, {"type": "object"})
    return document(api, [*agent_api.operations(schemas), *task_api.operations(schemas), itself], schemas)
