"""The description of the tasks' part of the API, one operation for each path and method."""

from __future__ import annotations

from typing import get_args

from ...controller import api as controller_api
from ...errors import AgentFarmError, ConflictError, NoSpace, NotFoundError, QuotaExceeded
from ...models import UserOptions
from ...openapi import Operation, Query
from ...records_schema import Rules, Schema, Schemas
from ...services.handlers import NoOrder
from ..models import (
    MAX_ATTEMPTS,
    MAX_DEPENDENCIES,
    MAX_PRIORITY,
    Artifact,
    Attempt,
    Change,
    HandOver,
    Progress,
    Task,
    TaskRequest,
    TaskState,
)
from . import handlers

_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
#: Schemas of what varies in the paths.
PARAMETERS: dict[str, Schema] = {"id": _ID, "path": {"type": "string", "minLength": 1, "maxLength": 1000}}
_TEXT: Schema = {"type": "string", "maxLength": 255}
_SHORT = {"maxLength": 200}
#: What the records check beyond their annotations.
RULES: Rules = {
    TaskRequest: {
        "": {
            "oneOf": [
                {"required": ["notebook"], "properties": {"notebook": {"type": "object"}, "path": {"type": "null"}}},
                {"required": ["path"], "properties": {"path": {"type": "string"}, "notebook": {"type": "null"}}},
            ]
        },
        "name": _SHORT,
        "idempotency_key": _SHORT,
        "priority": {"minimum": -MAX_PRIORITY, "maximum": MAX_PRIORITY},
        "timeout_seconds": {"exclusiveMinimum": 0, "maximum": 30 * 86400},
        "max_attempts": {"minimum": 1, "maximum": MAX_ATTEMPTS},
        "after": {"maxItems": MAX_DEPENDENCIES, "items": _ID},
    },
    UserOptions: controller_api.RULES[UserOptions],
    HandOver: {"to": {"minLength": 1, "maxLength": 200}, "note": {"maxLength": 2000}},
}
_QUERIES = (
    Query("state", {"enum": list(get_args(TaskState))}, "Only tasks in this state; may be given more than once."),
    Query("agent", _TEXT, "Only tasks of this agent."),
    Query("project", _TEXT, "Only tasks of this project."),
    Query("name", _TEXT, "Only tasks whose name has this in it."),
    Query("limit", {"type": "integer", "minimum": 1, "maximum": handlers.MOST_LISTED}, "How many; 100 if not said."),
    Query("cursor", {"type": "string", "pattern": "^([0-9a-f]{16})?$"}, "The `cursor` of the page before."),
)
_STREAM = {"text/event-stream": {"type": "string"}}


def operations(schemas: Schemas) -> list[Operation]:
    """Return the operations of tasks."""
    return [*_of_all(schemas), *_orders(schemas), *_of_one(schemas)]


def _of_all(schemas: Schemas) -> list[Operation]:
    task = schemas.answered(Task)
    properties: dict[str, Schema] = {"tasks": _list(task), "cursor": {"type": ["string", "null"]}}
    listed: Schema = {"type": "object", "properties": properties, "required": list(properties)}
    return [
        Operation("GET", "tasks", handlers.TasksHandler, listed, query=_QUERIES),
        Operation("POST", "tasks", handlers.TasksHandler, task, 201, also=(200,), body=schemas.accepted(TaskRequest),
                  errors=(NotFoundError, ConflictError, NoSpace, QuotaExceeded)),
        Operation("GET", "events", handlers.BoardEventsHandler, None, media=_STREAM),
    ]  # fmt: skip


def _orders(schemas: Schemas) -> list[Operation]:
    task, nothing = schemas.answered(Task), schemas.accepted(NoOrder)
    errors = (NotFoundError, ConflictError)
    orders = {
        "cancel": (handlers.CancelHandler, nothing),
        "retry": (handlers.RetryHandler, nothing),
        "handover": (handlers.HandOverHandler, schemas.accepted(HandOver)),
    }
    return [
        Operation("POST", f"tasks/{{id}}/{name}", handler, task, body=body, errors=errors)
        for name, (handler, body) in orders.items()
    ]


def _of_one(schemas: Schemas) -> list[Operation]:
    view = schemas.extended(
        "TaskView",
        Task,
        attempts=_list(schemas.answered(Attempt)),
        changes=_list(schemas.answered(Change)),
        artifacts=_list(schemas.answered(Artifact)),
        progress={"anyOf": [schemas.answered(Progress), {"type": "null"}]},
    )
    which = Query("which", {"enum": ["submitted", "executed"]}, "Which of the two; the executed one if there is one.")
    attempt = Query("attempt", {"type": "integer", "minimum": 1, "maximum": 999999}, "Number of the attempt.")
    missing: tuple[type[AgentFarmError], ...] = (NotFoundError,)
    file: dict[str, Schema] = {"application/octet-stream": {}}
    each = "tasks/{id}"
    return [
        Operation("GET", each, handlers.TaskHandler, view, errors=missing),
        Operation("DELETE", each, handlers.TaskHandler, {"type": "object"}, errors=(NotFoundError, ConflictError)),
        Operation("GET", f"{each}/notebook", handlers.NotebookHandler, None, query=(which,), errors=missing,
                  media={"application/x-ipynb+json": {}}),
        Operation("GET", f"{each}/artifacts/{{path}}", handlers.ArtifactHandler, None, query=(attempt,),
                  errors=missing, media=file),
        Operation("GET", f"{each}/events", handlers.TaskEventsHandler, None, errors=missing, media=_STREAM),
    ]  # fmt: skip


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}
