"""The description of the benchmark service's API: one operation for each path and method of :mod:`.handlers`."""

from __future__ import annotations

from typing import Any

from ..errors import ConflictError, FarmUnavailable, InvalidField, NotFoundError
from ..openapi import Api, Operation, Query, document
from ..records_schema import Rules, Schema, Schemas
from ..services.description import REFUSALS, SECURITY, DescriptionHandler
from ..services.handlers import NoOrder
from . import handlers
from .models import BenchmarkRun, CaseResult, RunEvent, RunRequest, Sample
from .report import FORMATS
from .suites import Suite

_DESCRIPTION = (
    "Suites of notebooks that are executed on all nodes at once, the runs and their reports. Units are in the names "
    "of figures. Every error is {message, reason} and facts."
)
_RUN = {"type": "string", "pattern": "^[0-9]{8}-[0-9]{6}-[0-9a-f]{6}$"}
_TEXT = {"type": "string"}
_SECONDS = {"exclusiveMinimum": 0}

#: What a request checks beyond its annotations.
RULES: Rules = {
    RunRequest: {
        "duration_seconds": _SECONDS,
        "sample_interval_seconds": _SECONDS,
        "repeat": {"minimum": 1},
        "": {
            "allOf": [
                {"not": {"required": ["repeat", "duration_seconds"],
                         "properties": {"repeat": {"type": "integer"}, "duration_seconds": {"type": "number"}}}},
                {"not": {"required": ["nodes", "labels"],
                         "properties": {"nodes": {"type": "array"}, "labels": {"type": "object", "minProperties": 1}}}},
            ]
        },
    }
}  # fmt: skip


def description(base: str) -> dict[str, Any]:
    """Return the OpenAPI document of the API at `base`."""
    schemas = Schemas(RULES)
    api = Api(
        title="agentfarm benchmark",
        description=_DESCRIPTION,
        base=base,
        parameters={"id": _RUN},
        refusals=REFUSALS,
        security=SECURITY,
        errors=(FarmUnavailable,),
    )
    return document(api, [*_runs(schemas), *_results(schemas)], schemas)


def _runs(schemas: Schemas) -> list[Operation]:
    run, missing = schemas.answered(BenchmarkRun), (NotFoundError,)
    suites = {"suites": _list(schemas.answered(Suite)), "problems": {"type": "object", "additionalProperties": _TEXT}}
    view = schemas.extended(
        "BenchmarkRunView",
        BenchmarkRun,
        results=_list(schemas.answered(CaseResult)),
        outcomes=_list({"type": "object"}),
        events=_list(schemas.answered(RunEvent)),
        progress=_list({"type": "object"}),
    )
    request = schemas.accepted(RunRequest)
    return [
        Operation("GET", "suites", handlers.SuitesHandler, _object(suites)),
        Operation("GET", "runs", handlers.RunsHandler, _object({"runs": _list(run)})),
        Operation("POST", "runs", handlers.RunsHandler, run, 201, body=request, errors=(*missing, ConflictError)),
        Operation("GET", "runs/{id}", handlers.RunHandler, view, errors=missing),
        Operation("POST", "runs/{id}/cancel", handlers.CancelHandler, run, body=schemas.accepted(NoOrder),
                  errors=(*missing, ConflictError)),
        Operation("GET", "runs/{id}/events", handlers.EventsHandler, None, errors=missing,
                  media={"text/event-stream": _TEXT}),
    ]  # fmt: skip


def _results(schemas: Schemas) -> list[Operation]:
    report = Query("format", {"enum": list(FORMATS)}, "The form of the report; html if none is named.")
    samples = Query("format", {"enum": ["json", "csv"]}, "The form of the samples; json if none is named.")
    about_so_many = "About how many samples of each node, each role and the farm, spread evenly; all if none is named."
    points = Query("points", {"type": "integer", "minimum": 1, "maximum": handlers.MAX_POINTS}, about_so_many)
    texts = {form.partition(";")[0]: _TEXT for form in FORMATS.values()} | {"application/json": {}}
    listed = _object({"samples": _list(schemas.answered(Sample))})
    against = Query("against", _RUN, "Another run that this one is compared with.")
    errors = (NotFoundError, InvalidField)
    return [
        Operation("GET", "runs/{id}/report", handlers.ReportHandler, None, query=(report, against),
                  errors=(*errors, ConflictError), media=texts),
        Operation("GET", "runs/{id}/samples", handlers.SamplesHandler, None, query=(samples, points), errors=errors,
                  media={"application/json": listed, "text/csv": _TEXT}),
        Operation("GET", "openapi.json", DescriptionHandler, {"type": "object"}),
    ]  # fmt: skip


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
