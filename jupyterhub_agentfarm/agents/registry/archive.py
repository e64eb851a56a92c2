"""Archiver: the files of an agent, packed before it is gone.

Files are on the nodes, and what reads them there is a server of the agent: of each node, one that the agent itself
started. So only an agent with a running server can be archived, and what the server does not show, such as hidden
files, is not packed. The archive is ``NAME.tar.gz`` (0600), with a folder for each node::

    scout/n1/results/table.csv
    scout/n2/notes.ipynb
"""

from __future__ import annotations

import asyncio
import contextlib
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import aiohttp

from ...errors import ConflictError, NoSpace, ServerUnreachable
from ..jupyter.server_api import JupyterServer, open_session, quoted
from ..jupyter.workspace import FileEntry, list_files
from .hub_users import TASKS_NOTE, HubUsers, tasks_scopes

#: The servers of tasks end with their tasks.
_TASK_PREFIX = "task-"
#: Deepest folder that is packed: a link may lead back to where it is.
MAX_DEPTH = 40
MAX_FILES = 100_000
PACK_SECONDS = 3600.0
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Archiver:
    """Packs the files of agents.

    Parameters
    ----------
    users
        Mints the token with which the servers are asked.
    leases
        Those of the farm, by id.
    folder
        Where archives are kept.
    hub_url
        The Hub at its proxy, with a slash at the end.
    checked_path
        Returns a path that stays in its folder, and raises `InvalidField` for every other one: a server is the agent's,
        and shows what it likes.
    max_bytes
        The most that one archive may hold, unpacked.
    """

    users: HubUsers
    leases: Callable[[], Mapping[str, Mapping[str, Any]]]
    folder: Path
    hub_url: str
    checked_path: Callable[[str], PurePosixPath]
    max_bytes: int = 10 * 2**30

    def check(self, name: str) -> None:
        """Return when there is a server that shows the agent's files.

        Raises
        ------
        ConflictError
            There is none.
        """
        if not self._servers(name):
            raise ConflictError(
                f"no server of {name} runs, and only there can its files be read: start one, or keep the workspace"
            )

    async def pack(self, name: str) -> Path:
        """Pack the files of an agent; return the archive.

        Raises
        ------
        ConflictError
            No server of the agent runs, or there are too many files.
        InvalidField
            A file has a path that no archive can hold.
        NoSpace
            They are too large, or the disk is full.
        ServerUnreachable
            A server does not answer.
        """
        self.check(name)
        token = (await self.users.mint(name, tasks_scopes(name), PACK_SECONDS, TASKS_NOTE)).token
        path = self.folder / f"{name}.tar.gz"
        part = path.with_suffix(".part")
        try:
            await asyncio.to_thread(self.folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            async with asyncio.timeout(PACK_SECONDS), open_session() as session:
                await self._pack(name, part, token, session)
            await asyncio.to_thread(part.replace, path)
        except TimeoutError as exc:
            raise ServerUnreachable(f"the files of {name} could not be packed within {PACK_SECONDS:g} s") from exc
        except OSError as exc:
            raise NoSpace(f"{path} cannot be written: {exc.strerror}") from exc
        finally:
            await asyncio.to_thread(part.unlink, missing_ok=True)
        return path

    def _servers(self, name: str) -> dict[str, str]:
        """Return for each node the name of a server that shows the agent's files there."""
        return {
            str(lease["node"]): str(lease["server_name"])
            for lease in self.leases().values()
            if lease["owner"] == name and lease["state"] == "running"
            and not lease["server_name"].startswith(_TASK_PREFIX)
        }  # fmt: skip

    async def _pack(self, name: str, part: Path, token: str, session: aiohttp.ClientSession) -> None:
        left = self.max_bytes
        async with _tar(part) as tar:
            for node, server_name in self._servers(name).items():
                path = f"user/{quote(name, safe='')}/" + (f"{quote(server_name, safe='')}/" if server_name else "")
                server = JupyterServer(session, self.hub_url + path, server_name, token)
                async for entry in _files(server, self.checked_path):
                    left -= await _add(tar, server, entry, f"{name}/{node}/{entry.path}", left)


@contextlib.asynccontextmanager
async def _tar(path: Path) -> AsyncIterator[tarfile.TarFile]:
    """Give a new archive, which is closed at the end; everything that works on it is done in threads."""
    await asyncio.to_thread(path.touch, 0o600)
    tar = await asyncio.to_thread(tarfile.open, path, "w:gz")
    try:
        yield tar
    finally:
        await asyncio.to_thread(tar.close)


async def _files(server: JupyterServer, checked_path: Callable[[str], PurePosixPath]) -> AsyncIterator[FileEntry]:
    """Give every file that the server shows."""
    folders, found = [("", 0)], 0
    while folders:
        folder, depth = folders.pop()
        for entry in await list_files(server, folder):
            found += 1
            checked_path(entry.path)
            if found > MAX_FILES or depth > MAX_DEPTH:
                raise ConflictError(f"there are more than {MAX_FILES} files, or folders without an end: {folder}")
            if entry.type == "directory":
                folders.append((entry.path, depth + 1))
            else:
                yield entry


async def _add(tar: tarfile.TarFile, server: JupyterServer, entry: FileEntry, name: str, most: int) -> int:
    """Fetch a file of at most this many bytes and put it into the archive; return how many it has."""
    with await asyncio.to_thread(tempfile.TemporaryFile) as file:
        await _fetch(server, f"{server.url}files/{quoted(entry.path)}", file, most)
        about = tarfile.TarInfo(name)
        about.size, about.mode = file.tell(), 0o600
        file.seek(0)
        await asyncio.to_thread(tar.addfile, about, file)
        return about.size


async def _fetch(server: JupyterServer, url: str, file: Any, most: int) -> None:
    timeout = aiohttp.ClientTimeout(total=None, connect=10, sock_read=60)
    try:
        async with server.session.get(url, headers=server.headers, timeout=timeout, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ServerUnreachable(f"{server.label} answered {answer.status} for a file that it shows: {url}")
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                most -= len(chunk)
                if most < 0:  # counted here: what the server says of the size may be another
                    raise NoSpace("the files are more than one archive may hold: keep the workspace")
                await asyncio.to_thread(file.write, chunk)
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise ServerUnreachable(f"{server.label} does not answer ({type(exc).__name__})") from exc
