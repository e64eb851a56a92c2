"""Resources of the MCP endpoint: files of the caller's workspaces, and the notebooks of tasks that the caller may see.

::

    agentfarm://workspace/PATH?server=NAME    a file as it is, or what a folder holds; the default server has no name
    agentfarm://tasks/ID/notebook             as it is executed so far, or else as it was submitted

They are for clients that show or attach what an agent works with; models have tools for the same. All are reached with
the caller's own token, as the tools do it (:mod:`.tools.caller`), and each answer is bounded in time and size.
"""

from __future__ import annotations

import asyncio
import base64
import json
import mimetypes
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from mcp.server import MCPServer
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, ListResourcesResult, Resource, ResourceTemplate

from ...errors import AgentFarmError, InvalidField, NotFoundError, ServerNotRunning, ServerUnreachable
from ..dispatch.servers import TASK_SERVER
from ..jupyter import workspace
from .tools.answers import MAX_ANSWER_BYTES, AnswerTooLong, TookTooLong
from .tools.caller import Caller, ToolDesk, caller_of

_SCHEME = "agentfarm"
_SECONDS = 90.0
#: What is listed of each workspace, of how many servers, and tasks on a page.
_MOST_ENTRIES, _MOST_SERVERS, _TASKS = 200, 8, 100
#: Room for the frame of an answer.
_MOST_BYTES = MAX_ANSWER_BYTES - 10_000
_NOTEBOOK_TYPE, _FOLDER_TYPE = "application/x-ipynb+json", "application/json"
_TEMPLATES = (
    ResourceTemplate(
        uri_template=f"{_SCHEME}://workspace/{{+path}}{{?server}}",
        name="workspace",
        title="Workspace",
        description="A file of your workspace, or what a folder there holds; the server must run.",
    ),
    ResourceTemplate(
        uri_template=f"{_SCHEME}://tasks/{{task_id}}/notebook",
        name="task-notebook",
        title="Notebook of a task",
        description="The notebook as it is executed so far, with its output.",
        mime_type=_NOTEBOOK_TYPE,
    ),
)


@dataclass(frozen=True)
class FileUri:
    """A file or folder of a server's workspace."""

    path: str
    server: str = ""

    def __str__(self) -> str:
        query = f"?server={quote(self.server, safe='')}" if self.server else ""
        return f"{_SCHEME}://workspace/{quote(self.path)}{query}"


@dataclass(frozen=True)
class NotebookUri:
    """The notebook of a task."""

    task_id: str

    def __str__(self) -> str:
        return f"{_SCHEME}://tasks/{self.task_id}/notebook"


def parsed(uri: str) -> FileUri | NotebookUri:
    """Return what a URI names.

    Raises
    ------
    InvalidField
        It is none of a resource that there is.
    """
    parts = urlsplit(uri)
    if (parts.scheme, parts.netloc) == (_SCHEME, "workspace"):
        return FileUri(unquote(parts.path).removeprefix("/"), parse_qs(parts.query).get("server", [""])[0])
    task = re.fullmatch("/([0-9a-f]{16})/notebook", parts.path)
    if (parts.scheme, parts.netloc) == (_SCHEME, "tasks") and task is not None:
        return NotebookUri(task[1])
    wanted = " or ".join(template.uri_template for template in _TEMPLATES)
    raise InvalidField("uri", wanted, uri)


class ResourceServer(MCPServer[Any]):
    """The SDK's server, with resources that depend on who asks: its own registry has the same ones for everybody.

    Parameters
    ----------
    desk
        What resources are reached with.
    """

    def __init__(self, desk: ToolDesk, **options: Any) -> None:
        self._desk = desk
        super().__init__(**options)

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """Return the forms of the URIs."""
        return list(_TEMPLATES)

    async def read_resource(self, uri: Any, context: Context[Any, Any] | None = None) -> Iterable[ReadResourceContents]:
        """Return the content of a resource that the caller may have.

        Raises
        ------
        MCPError
            It is not there, too large, or cannot be had now.
        """
        assert context is not None, "nobody but clients asks"
        async with _told(str(uri)):
            named, caller = parsed(str(uri)), caller_of(context)
            if isinstance(named, FileUri):
                return [await self._file(caller, named)]
            return [await self._notebook(caller, named)]

    # The public `list_resources` is not told who asks, nor which page is wanted.
    async def _handle_list_resources(self, ctx: Any, params: Any) -> ListResourcesResult:
        async with _told("resources"):
            caller = caller_of(ctx_of(ctx, self))
            cursor = params.cursor if params is not None else None
            files = await self._files(caller) if cursor is None else []
            query = {"limit": str(_TASKS)} | ({"cursor": cursor} if cursor is not None else {})
            listed = await self._desk.service(caller, "GET", "tasks", query=query)
            notebooks = [_notebook_resource(task) for task in listed["tasks"]]
            return ListResourcesResult(resources=[*files, *notebooks], next_cursor=listed["cursor"])

    # ---- files ----

    async def _files(self, caller: Caller) -> list[Resource]:
        """Return what is in the root folders of the caller's servers that run; those of tasks go again."""
        found: list[Resource] = []
        servers = await self._desk.servers(caller)
        ready = [name for name, model in servers.items() if model.get("ready") and not TASK_SERVER.fullmatch(name)]
        for name in sorted(ready)[:_MOST_SERVERS]:
            try:
                entries = await workspace.list_files(await self._desk.server(caller, name), "")
            except (ServerNotRunning, ServerUnreachable):
                continue  # it has just ended
            found += [_file_resource(FileUri(entry.path, name), entry) for entry in entries[:_MOST_ENTRIES]]
        return found

    async def _file(self, caller: Caller, uri: FileUri) -> ReadResourceContents:
        server = await self._desk.server(caller, uri.server)
        try:
            part = await workspace.read_file(server, uri.path, 0, _MOST_BYTES * 3 // 4)
        except workspace.IsFolder:
            entries = await workspace.list_files(server, uri.path)
            inside = [_file_resource(FileUri(entry.path, uri.server), entry) for entry in entries[:_MOST_ENTRIES]]
            text = json.dumps([each.model_dump(mode="json", exclude_none=True) for each in inside])
            return _content(text, _FOLDER_TYPE)
        if part.next_offset is not None:
            raise _too_long("the file", "read_file")
        kind = mimetypes.guess_type(uri.path)[0]
        if part.encoding == "utf-8":
            return _content(part.content, kind or "text/plain", "the file", "read_file")
        return ReadResourceContents(base64.b64decode(part.content), kind or "application/octet-stream")

    # ---- notebooks ----

    async def _notebook(self, caller: Caller, uri: NotebookUri) -> ReadResourceContents:
        notebook = await self._desk.service(caller, "GET", f"tasks/{uri.task_id}/notebook")
        text = await asyncio.to_thread(json.dumps, notebook)
        return _content(text, _NOTEBOOK_TYPE, "the notebook", "get_task")


def ctx_of(ctx: Any, server: MCPServer[Any]) -> Context[Any, Any]:
    """Return the context of a request as tools get it."""
    return Context(request_context=ctx, mcp_server=server)


def _content(text: str, kind: str, what: str = "the list", tool: str = "list_files") -> ReadResourceContents:
    if len(json.dumps(text)) > _MOST_BYTES:
        raise _too_long(what, tool)
    return ReadResourceContents(text, kind)


def _too_long(what: str, tool: str) -> AnswerTooLong:
    return AnswerTooLong(f"{what} is longer than the {_MOST_BYTES:,} bytes of an answer: use the tool {tool}")


def _file_resource(uri: FileUri, entry: workspace.FileEntry) -> Resource:
    folder = entry.type == "directory"
    kind = _FOLDER_TYPE if folder else mimetypes.guess_type(entry.path)[0]
    where = f"on your server {uri.server}" if uri.server else "on your default server"
    return Resource(
        uri=str(uri),
        name=entry.path,
        description=f"{'A folder' if folder else 'A file'} {where}.",
        mime_type=kind,
        size=entry.size_bytes,
    )


def _notebook_resource(task: dict[str, Any]) -> Resource:
    name = task["request"]["name"] or f"task {task['id']}"
    about = f"The notebook of a task of {task['agent']}, which is {task['state']}."
    return Resource(uri=str(NotebookUri(task["id"])), name=name, description=about, mime_type=_NOTEBOOK_TYPE)


@asynccontextmanager
async def _told(uri: str) -> AsyncIterator[None]:
    """Make what goes wrong, or takes too long, an error of the protocol, with a fixed reason beside the sentence."""
    try:
        async with asyncio.timeout(_SECONDS) as limit:
            yield
    except AgentFarmError as exc:
        raise _error(exc, uri) from exc
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise _error(TookTooLong(f"this took longer than {_SECONDS:g} s and was given up"), uri) from exc


def _error(exc: AgentFarmError, uri: str) -> MCPError:
    theirs = isinstance(exc, InvalidField | NotFoundError) or exc.http_status == 404
    code = INVALID_PARAMS if theirs else INTERNAL_ERROR
    return MCPError(code=code, message=exc.message, data={"uri": uri, "reason": exc.reason, **exc.facts()})
