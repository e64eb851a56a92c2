"""A run before it begins: everything that a request can be refused for is looked at here."""

from __future__ import annotations

import asyncio
import json
import secrets
import time

from ..errors import InvalidField
from ..records import from_json, to_json
from .definition import Suite
from .models import BenchmarkRun, RunRequest
from .plan import NodeViews, check_parameters, phases_of, wanted_nodes
from .provenance import describe, parts_of


async def prepare(
    suite: Suite, request: RunRequest, views: NodeViews, by: str
) -> tuple[BenchmarkRun, dict[str, bytes]]:
    """Return the run that a request asks for, and the notebook of each case.

    Raises
    ------
    InvalidField
        A node is not known, a parameter or a notebook cannot be used.
    ConflictError
        No node can take part, or too few.
    NotFoundError
        A notebook is not there.
    """
    check_parameters(suite, request.parameters)
    nodes = parts_of(views, wanted_nodes(views, request, suite), suite)
    phases = phases_of(suite, request, [node.name for node in nodes if not node.skipped])
    contents = await asyncio.to_thread(_read_notebooks, suite)
    definition, provenance = await describe(suite, contents)
    run = BenchmarkRun(
        id=time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(3),
        suite=suite.name,
        state="starting",
        detail="the servers are being started",
        requested_by=by,
        created_at=time.time(),
        definition={**definition, "phases": to_json(phases)},
        nodes=nodes,
        parameters=request.parameters,
        provenance=provenance,
        labels=request.labels,
        sample_interval_seconds=request.sample_interval_seconds or suite.sample_interval_seconds,
        exclusive=request.exclusive or suite.exclusive,
    )
    return run, contents


def suite_of(run: BenchmarkRun) -> Suite:
    """Return the suite of a run as it was when the run was prepared.

    Raises
    ------
    InvalidField
        Another version of this software prepared it.
    """
    return from_json(Suite, {key: value for key, value in run.definition.items() if key not in ("phases", "notebooks")})


def _read_notebooks(suite: Suite) -> dict[str, bytes]:
    contents = {case.name: suite.notebook_path(case).read_bytes() for case in suite.cases}
    for name, content in contents.items():
        try:
            notebook = json.loads(content)
        except ValueError as exc:
            raise InvalidField(f"case {name}: notebook", f"a notebook in JSON ({exc})", content[:40]) from exc
        if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
            raise InvalidField(f"case {name}: notebook", "a notebook with cells", content[:40])
    return contents
