"""Descriptions of our HTTP APIs in OpenAPI 3.1, made from the records and from the handlers' routes.

An API lists its :class:`Operation` s, one for each path and method, beside its handlers. What the handlers say
themselves is taken from them: a method's sentence is its docstring, the scope it needs is in the handler's `scopes`.
What a body and an answer look like is the schema of a record (:mod:`.records_schema`), and which errors there are is a
list of classes of :mod:`.errors`, whose reasons and statuses are fixed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import responses
from typing import Any

from . import __version__
from .errors import (
    AgentFarmError,
    BodyTooLarge,
    HostKeyRefused,
    InvalidField,
    LaunchFailed,
    NodedError,
    NodeUnreachable,
    ProtocolError,
    RemoteCommandFailed,
    TransportError,
    WrongContentType,
)
from .records_schema import Schema, Schemas

Errors = tuple[type[AgentFarmError], ...]

#: What any request that a node has to answer can end in.
NODE_ERRORS: Errors = (
    NodeUnreachable, TransportError, HostKeyRefused, RemoteCommandFailed, ProtocolError, NodedError, LaunchFailed,
)  # fmt: skip
_BODY_ERRORS: Errors = (InvalidField, BodyTooLarge, WrongContentType)
_JSON = "application/json"


@dataclass(frozen=True)
class Query:
    """An argument in the query of a request."""

    name: str
    schema: Schema
    description: str


@dataclass(frozen=True)
class Operation:
    """What one method of one path does."""

    method: str
    #: Below the API's own path, with "{name}" for what varies.
    path: str
    handler: type
    #: Schema of the answer; None: there is no body.
    answer: Schema | None
    status: int = 200
    #: Further statuses with the same answer.
    also: tuple[int, ...] = ()
    #: Schema of the request's body; None: none is read.
    body: Schema | None = None
    query: tuple[Query, ...] = ()
    errors: Errors = ()
    #: Media types of the answer other than JSON, by which `answer` is replaced.
    media: Mapping[str, Schema] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What the handler says about itself."""
        return inspect.getdoc(getattr(self.handler, self.method.lower())) or ""

    @property
    def scope(self) -> str | None:
        """The scope that it needs beyond access."""
        scopes: Mapping[str, str] = getattr(self.handler, "scopes", {})
        return scopes.get(self.method)


@dataclass(frozen=True)
class Api:
    """One API: what it is called, where it is, and what its paths are made of."""

    title: str
    description: str
    #: Path of the API, as in "/services/agentfarm/api/v1".
    base: str
    #: Schemas of what varies in paths.
    parameters: Mapping[str, Schema]
    #: Statuses that a request can be refused with before any handler sees it, with their reasons.
    refusals: Mapping[int, str]
    #: Ways to say who asks.
    security: Mapping[str, Mapping[str, str]]
    #: What any operation can end in.
    errors: Errors = ()


def document(api: Api, operations: Iterable[Operation], schemas: Schemas) -> dict[str, Any]:
    """Return the description of an API as an OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(f"/{operation.path}", {})[operation.method.lower()] = _operation(api, operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": api.title, "version": __version__, "description": api.description},
        "servers": [{"url": api.base}],
        "paths": paths,
        "components": {
            "schemas": {**dict(sorted(schemas.definitions.items())), "Error": _error_schema()},
            "securitySchemes": {name: dict(scheme) for name, scheme in api.security.items()},
        },
    }


def _operation(api: Api, operation: Operation, schemas: Schemas) -> dict[str, Any]:
    title, _, rest = operation.sentence.partition("\n\n")
    scopes = [operation.scope] if operation.scope else []
    needs = f"Needs the scope `{operation.scope}`." if operation.scope else ""
    described: dict[str, Any] = {
        "operationId": _identity(operation),
        "summary": title.replace("\n", " "),
        "description": " ".join(part for part in (needs, rest.replace("\n", " ").strip()) if part),
        "parameters": [*_path_parameters(api, operation), *(_query(each) for each in operation.query)],
        "responses": _responses(api, operation),
        "security": [{name: scopes} for name in api.security],
    }
    if operation.body is not None:
        described["requestBody"] = {
            "required": schemas.needs_body(operation.body),
            "content": {_JSON: {"schema": operation.body}},
        }
    return described


def _identity(operation: Operation) -> str:
    """Return a name as in "postNodesNameCordon"."""
    words = operation.path.replace("{", "").replace("}", "").replace("-", "/").split("/")
    return operation.method.lower() + "".join(word.capitalize() for word in words)


def _path_parameters(api: Api, operation: Operation) -> list[dict[str, Any]]:
    names = [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": dict(api.parameters[name])} for name in names]


def _query(query: Query) -> dict[str, Any]:
    return {"name": query.name, "in": "query", "schema": query.schema, "description": query.description}


def _responses(api: Api, operation: Operation) -> dict[str, Any]:
    good: dict[str, Any] = {"description": operation.sentence.partition("\n")[0]}
    if operation.media:
        good["content"] = {media: {"schema": schema} for media, schema in operation.media.items()}
    elif operation.answer is not None:
        good["content"] = {_JSON: {"schema": operation.answer}}
    answers: dict[str, Any] = {str(status): good for status in (operation.status, *operation.also)}
    for status, reasons in sorted(_reasons(api, operation).items()):
        answers[str(status)] = {
            "description": f"{responses[status]}; the reason is {' or '.join(sorted(reasons))}.",
            "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    return answers


def _reasons(api: Api, operation: Operation) -> dict[int, set[str]]:
    """Return the reasons of errors by status."""
    found: dict[int, set[str]] = {status: {reason} for status, reason in api.refusals.items()}
    errors = [*api.errors, *operation.errors]
    if operation.body is not None:
        errors += _BODY_ERRORS
    if operation.query:
        errors.append(InvalidField)
    for error in errors:
        found.setdefault(error.http_status, set()).add(error.reason)
    return found


def _error_schema() -> Schema:
    return {
        "type": "object",
        "description": "Any error. Beside message and reason there are the facts that the message is made from.",
        "properties": {
            "message": {"type": "string", "description": "What happened and what to do, for people."},
            "reason": {"enum": fixed_reasons(), "description": "Fixed words for programs."},
        },
        "required": ["message", "reason"],
    }


def fixed_reasons() -> list[str]:
    """Return every reason that an answer can carry."""
    kinds, reasons = [AgentFarmError], {"unauthenticated", "forbidden", "not_found", "method_not_allowed"}
    while kinds:
        kind = kinds.pop()
        reasons.add(kind.reason)
        kinds += kind.__subclasses__()
    return sorted(reasons)
