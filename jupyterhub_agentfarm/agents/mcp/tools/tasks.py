"""Tools for tasks: notebooks that the farm executes, again elsewhere when a node dies."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from mcp_types import CallToolResult, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field

from ....errors import InvalidField
from ...jupyter.outputs import BoundedText, folded, text_of
from .answers import AnswerTooLong, Tools, answer, tool
from .caller import Caller, Ctx, ToolDesk, caller_of
from .resources import Resources

MAX_WAIT_SECONDS = 600.0
MAX_CELLS = 200
_TASK_ID = re.compile("[0-9a-f]{16}")
_MAX_OUTPUT = 10_000
_ENDED = frozenset({"completed", "cancelled", "discarded"})
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)

TaskId = Annotated[str, Field(description="Id of a task: 16 hex digits, from submit_task.", max_length=64)]


class TaskDetails(BaseModel):
    """What else may be said of a task."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(description="A name for people.", max_length=200)] = ""
    parameters: Annotated[dict[str, Any], Field(description="Values for the cell tagged `parameters`.")] = {}
    timeout_seconds: Annotated[float, Field(description="Limit of each attempt.", gt=0, le=30 * 86400)] = 3600
    max_attempts: Annotated[int, Field(description="Attempts that the farm may fail.", ge=1, le=20)] = 3
    after: Annotated[list[str], Field(description="Ids of tasks that must be completed before.")] = []
    idempotency_key: Annotated[str | None, Field(description="The same key gives the same task.")] = None
    project: Annotated[str | None, Field(description="A project whose members see the task.")] = None
    agent: Annotated[str | None, Field(description="For people: which of their agents is to do it.")] = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of a task that were given."""
        return self.model_dump(exclude_defaults=True)


class TaskTools(Tools):
    """Tools for tasks."""

    @tool(90, ToolAnnotations(destructive_hint=False, open_world_hint=True))
    async def submit_task(
        self,
        ctx: Ctx,
        cells: Annotated[list[str] | None, Field(description="Code, one text per cell.", max_length=MAX_CELLS)] = None,
        path: Annotated[str | None, Field(description="Or a notebook in your workspace: x.ipynb.")] = None,
        resources: Resources | None = None,
        details: TaskDetails | None = None,
    ) -> CallToolResult:
        """Have the farm execute a notebook without you: it waits for room, runs, and runs again when a node dies.

        Give either `cells` or the `path` of a notebook. Returns the task's id at once; get_task tells how it goes and
        what it showed. Use it for long work. Files that the notebook writes into the folder
        os.environ["AGENTFARM_ARTIFACTS"] are kept with the task.
        """
        more = details or TaskDetails()
        body: dict[str, Any] = more.fields()
        if (cells is None) == (path is None):
            raise InvalidField("cells", "given, or `path`, and not both", None if cells is None else "both")
        if cells is not None:
            body["notebook"] = await asyncio.to_thread(_notebook, cells, resources.kernel if resources else "")
        else:
            body["path"] = path
        body["options"] = resources.options() if resources else {}
        task = await self.desk.service(caller_of(ctx), "POST", "tasks", body)
        return answer(_brief(task))

    @tool(MAX_WAIT_SECONDS + 60, _READS)
    async def get_task(
        self,
        ctx: Ctx,
        task_id: TaskId,
        wait: Annotated[float, Field(description="Seconds to wait for its end.", ge=0, le=MAX_WAIT_SECONDS)] = 0,
        output: Annotated[bool, Field(description="Return what the notebook has shown.")] = True,
    ) -> CallToolResult:
        """Tell how a task goes; with `wait` when it has ended, or after that time.

        States: scheduled, available (waits for room), executing, retryable (the farm failed it and tries again), and
        finally completed, cancelled or discarded (its error tells the cell and the traceback).
        """
        caller, task_id = caller_of(ctx), _checked(task_id)
        task = await self.desk.service(caller, "GET", f"tasks/{task_id}")
        if wait and task["state"] not in _ENDED:
            await self.desk.follow_task(caller, task_id, wait)
            task = await self.desk.service(caller, "GET", f"tasks/{task_id}")
        view = _brief(task) | {key: task.get(key) for key in ("error", "progress", "artifacts")}
        view["attempts"] = [_attempt(attempt) for attempt in task.get("attempts") or ()]
        if output and task["attempt"]:
            view["output"] = await _output(self.desk, caller, task_id)
        return answer(view)

    @tool(60, _READS)
    async def list_tasks(
        self,
        ctx: Ctx,
        state: Annotated[list[str] | None, Field(description="Only tasks in these states.", max_length=7)] = None,
        limit: Annotated[int, Field(description="The most to return.", ge=1, le=200)] = 50,
    ) -> CallToolResult:
        """List tasks that you may see, the newest first."""
        query = {"limit": str(limit), "state": list(state or ())}
        listed = await self.desk.service(caller_of(ctx), "GET", "tasks", query=query)
        return answer({"tasks": [_brief(task) for task in listed["tasks"]], "more": listed["cursor"] is not None})

    @tool(60, ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False))
    async def cancel_task(self, ctx: Ctx, task_id: TaskId) -> CallToolResult:
        """Cancel a task: at once where it waits, or as soon as what it executes has been stopped."""
        task = await self.desk.service(caller_of(ctx), "POST", f"tasks/{_checked(task_id)}/cancel", {})
        return answer(_brief(task))


def _checked(task_id: str) -> str:
    if not _TASK_ID.fullmatch(task_id):
        raise InvalidField("task_id", "the id of a task, 16 hex digits", task_id)
    return task_id


def _notebook(cells: list[str], kernel: str) -> dict[str, Any]:
    import nbformat  # it takes seconds, for which the service need not wait

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    if kernel:
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel}
    return dict(notebook)


def _brief(task: dict[str, Any]) -> dict[str, Any]:
    """Return what matters of a task."""
    view = {"task_id": task["id"], "name": task["request"]["name"]}
    return view | {key: task[key] for key in ("agent", "state", "reason", "detail", "attempt", "changed_at")}


def _attempt(attempt: dict[str, Any]) -> dict[str, Any]:
    return {key: attempt.get(key) for key in ("number", "node", "server_name", "phase", "outcome", "detail")}


async def _output(desk: ToolDesk, caller: Caller, task_id: str) -> str:
    """Return what the notebook of a task has shown so far."""
    try:
        notebook = await desk.service(caller, "GET", f"tasks/{task_id}/notebook")
    except AnswerTooLong as exc:
        return f"[not shown: the notebook is too large ({exc.message}); its page in the browser shows it]"
    return await asyncio.to_thread(_text_of, notebook)


def _text_of(notebook: dict[str, Any]) -> str:
    shown = BoundedText(_MAX_OUTPUT)
    for number, cell in enumerate(notebook.get("cells", ())):
        text = "".join(_shown(output) for output in cell.get("outputs", ()))
        if text:
            shown.add(f"[cell {number}]\n{text}")
    return folded(str(shown))


def _shown(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return _joined(output["text"])
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}\n"
    text = text_of({kind: _joined(value) for kind, value in (output.get("data") or {}).items() if kind[:5] == "text/"})
    return f"{text}\n" if text else f"[{', '.join(output.get('data') or ('nothing',))}]\n"


def _joined(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else str(text)
