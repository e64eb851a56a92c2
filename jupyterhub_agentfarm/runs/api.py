"""The description of the API of runs: one operation for each path and method of :mod:`.handlers`."""

from __future__ import annotations

from typing import Any

from ..errors import AgentFarmError, ConflictError, InvalidField, NotFoundError
from ..openapi import Api, Operation, Query, document
from ..records_schema import Rules, Schema, Schemas
from . import handlers
from .models import MOST_WAIT_SECONDS, Artifacts, Run, RunRequest

_DESCRIPTION = (
    "Notebooks executed beside their kernel, in the user's own Jupyter server. Times are ISO 8601 in UTC, durations "
    "seconds. Every error is {message, reason}."
)
_SECONDS = {"exclusiveMinimum": 0}
_NAME = {"maxLength": 200}
_SECURITY = {
    "hubToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "A Hub token with the scope access:servers of this server; `Authorization: token …` too.",
    }
}

#: What a request checks beyond its annotations.
RULES: Rules = {
    RunRequest: {
        "timeout_seconds": _SECONDS,
        "cell_timeout_seconds": _SECONDS,
        "name": _NAME,
        "idempotency_key": _NAME,
        "path": {"minLength": 1},
        "output_path": {"pattern": r"\.ipynb$"},
        "environment": {"propertyNames": {"minLength": 1, "pattern": "^[^=\\x00]*$"}},
        "": {
            "oneOf": [
                {"required": ["notebook"], "properties": {"notebook": {"type": "object"}, "path": {"type": "null"}}},
                {"required": ["path"], "properties": {"path": {"type": "string"}, "notebook": {"type": "null"}}},
            ]
        },
    }
}


def description(base: str) -> dict[str, Any]:
    """Return the OpenAPI document of the API at `base`."""
    schemas = Schemas(RULES)
    api = Api(
        title="agentfarm runs",
        description=_DESCRIPTION,
        base=base,
        parameters={
            "id": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
            # Slashes in it may be written as they are, or as %2F.
            "path": {"type": "string", "minLength": 1, "maxLength": 4096},
        },
        # Without a token Jupyter Server answers 403, or 404 to a request that a page of another site makes.
        refusals={403: "forbidden"},
        security=_SECURITY,
    )
    return document(api, _operations(schemas), schemas)


def _operations(schemas: Schemas) -> list[Operation]:
    run, missing = schemas.answered(Run), (NotFoundError,)
    runs: Schema = {"type": "object", "properties": {"runs": {"type": "array", "items": run}}, "required": ["runs"]}
    request, anything = schemas.accepted(RunRequest), {"type": "object"}
    after = Query("after", {"type": "string", "pattern": "^[0-9]{1,15}$"}, "Id of the last event that was seen.")
    longest = {"type": "number", "minimum": 0, "maximum": MOST_WAIT_SECONDS}
    wait = Query("wait_seconds", longest, "Answer when the run has ended, at the latest after so long; else at once.")
    stream = {"text/event-stream": {"type": "string"}}
    file = {"application/octet-stream": {"type": "string", "contentMediaType": "application/octet-stream"}}
    refused: tuple[type[AgentFarmError], ...] = (NotFoundError, ConflictError)
    return [
        Operation("POST", "runs", handlers.RunsHandler, run, 201, also=(200,), body=request, errors=(ConflictError,)),
        Operation("GET", "runs", handlers.RunsHandler, runs),
        Operation("GET", "runs/{id}", handlers.RunHandler, run, query=(wait,), errors=(NotFoundError, InvalidField)),
        Operation("DELETE", "runs/{id}", handlers.RunHandler, None, 204, errors=refused),
        Operation("POST", "runs/{id}/cancel", handlers.CancelHandler, run, errors=missing),
        Operation("GET", "runs/{id}/events", handlers.EventsHandler, None, query=(after,), media=stream,
                  errors=(NotFoundError, InvalidField)),
        Operation("GET", "runs/{id}/notebook", handlers.NotebookHandler, anything, errors=missing),
        Operation("GET", "runs/{id}/results", handlers.ResultsHandler, anything, errors=refused),
        Operation("GET", "runs/{id}/artifacts", handlers.ArtifactsHandler, schemas.answered(Artifacts), errors=missing),
        Operation("GET", "runs/{id}/artifacts/{path}", handlers.ArtifactHandler, None, media=file, errors=missing),
        Operation("GET", "openapi.json", handlers.DescriptionHandler, anything),
    ]  # fmt: skip
