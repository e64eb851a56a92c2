"""Tools for the files of a server's workspace."""

from __future__ import annotations

import mimetypes
from dataclasses import asdict
from typing import Annotated

from mcp_types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from pydantic import Field

from ...jupyter import workspace
from ...jupyter.outputs import MAX_IMAGE_CHARACTERS
from .answers import Tools, answer, tool
from .caller import Ctx, ToolDesk, caller_of
from .servers import ServerName

MAX_ENTRIES = 500
MAX_READ = 100_000
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)

Path = Annotated[
    str, Field(description="Path in the workspace, as in data/table.csv.", max_length=workspace.MAX_PATH_CHARACTERS)
]


class FileTools(Tools):
    """Tools for the files of a server's workspace."""

    @tool(60, _READS)
    async def list_files(self, ctx: Ctx, path: Path = "", server: ServerName = "") -> CallToolResult:
        """List a folder of your workspace; the empty path is its root. The server must be running."""
        entries = await workspace.list_files(await self.desk.server(caller_of(ctx), server), path)
        left_out = max(len(entries) - MAX_ENTRIES, 0)
        data = {"path": path, "entries": [asdict(entry) for entry in entries[:MAX_ENTRIES]]}
        return answer(data | ({"entries_left_out": left_out} if left_out else {}))

    @tool(90, _READS)
    async def read_file(
        self,
        ctx: Ctx,
        path: Path,
        server: ServerName = "",
        offset: Annotated[int, Field(description="Where to begin: characters, or bytes of a binary.", ge=0)] = 0,
        max_characters: Annotated[int, Field(description="The most to return.", ge=1, le=MAX_READ)] = 20_000,
    ) -> CallToolResult:
        """Read a file of your workspace: text as it is, images as images, other binaries in base64."""
        part = await workspace.read_file(await self.desk.server(caller_of(ctx), server), path, offset, max_characters)
        image = None
        if part.encoding == "base64" and offset == 0:
            image = await _image(self.desk, ctx, server, path, part)
        return image or _read_answer(part)

    @tool(90, ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False))
    async def write_file(
        self,
        ctx: Ctx,
        path: Path,
        content: Annotated[str, Field(description="The whole file.", max_length=3_000_000)],
        server: ServerName = "",
        encoding: Annotated[workspace.Encoding, Field(description="base64 for binaries.")] = "utf-8",
    ) -> CallToolResult:
        """Write a file into your workspace, in place of the one that is there. Folders on its way are made.

        At most 2 MiB; larger files are better made by execute_code.
        """
        entry = await workspace.write_file(await self.desk.server(caller_of(ctx), server), path, content, encoding)
        return answer({"server": server, "written": asdict(entry)})


def _read_answer(part: workspace.FilePart) -> CallToolResult:
    about = {"path": part.path, "encoding": part.encoding, "offset": part.offset, "total": part.total}
    about["next_offset"] = part.next_offset
    unit = "characters" if part.encoding == "utf-8" else "bytes"
    end = part.next_offset or part.total
    note = f"[{unit} {part.offset}-{end} of {part.total}; read on with offset={end}]"
    more = [TextContent(type="text", text=note)] if part.next_offset else []
    return answer({"content": part.content, **about}, part.content, *more)


async def _image(desk: ToolDesk, ctx: Ctx, server: str, path: str, part: workspace.FilePart) -> CallToolResult | None:
    """Return an image whole; None where it is none, or too large to be shown."""
    kind = mimetypes.guess_type(path)[0] or ""
    if kind not in ("image/png", "image/jpeg", "image/gif", "image/webp") or part.total * 4 // 3 > MAX_IMAGE_CHARACTERS:
        return None
    whole = part
    if part.next_offset:
        whole = await workspace.read_file(await desk.server(caller_of(ctx), server), path, 0, part.total)
    about = {"path": path, "mime_type": kind, "total": part.total}
    return answer(
        about, f"[{kind}, {part.total} bytes]", ImageContent(type="image", data=whole.content, mime_type=kind)
    )
