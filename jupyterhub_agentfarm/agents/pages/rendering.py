"""Notebooks as HTML documents: off the event loop, bounded in size and time, kept by content, users in turn.

The work is done by one child process (:mod:`.notebook_html`), which ends when nothing was rendered for a while.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import OrderedDict

import jinja2

from ...errors import AgentFarmError
from ...services.turns import Turns
from ...share import share_path
from .notebook_html import DOCUMENT, LENGTH

#: Longer notebooks are not rendered, but may be downloaded.
MAX_NOTEBOOK_BYTES = 64 * 2**20
#: Deadline for one notebook, the start of the child included.
RENDER_SECONDS = 30.0
#: The longest wait for those of other users.
WAIT_SECONDS = 60.0
#: After this long without work the child ends.
IDLE_SECONDS = 120.0
#: Documents that are kept, in bytes of all together.
CACHE_BYTES = 32 * 2**20
_KEPT_VARIABLES = ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV")


class NotRendered(AgentFarmError):
    """The notebook cannot be shown as a page."""

    reason = "not_rendered"
    http_status = 422


class Renderer:
    """Makes documents of notebooks, one after the other, each once; one user's never hold up another's twice.

    Parameters
    ----------
    seconds
        Deadline for one notebook. Longer: larger notebooks are shown; a bad one keeps the others waiting longer.
    """

    def __init__(self, seconds: float = RENDER_SECONDS) -> None:
        self._seconds = seconds
        loader = jinja2.FileSystemLoader(share_path("templates"))
        self._frame = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
        self._turns = Turns("notebooks are becoming pages", places=1, seconds=WAIT_SECONDS)
        self._turn = asyncio.Lock()
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._child: asyncio.subprocess.Process | None = None
        self._ending: asyncio.TimerHandle | None = None

    async def document(self, notebook: bytes, user: str) -> tuple[str, bytes]:
        """Return a name for the content of `notebook`, and its document, which `user` is to see.

        Raises
        ------
        NotRendered
            It is no notebook, is too large, or takes too long.
        TooMany
            Two others are being made for this user, or wait for it.
        Overloaded
            Too many others have their turn before.
        """
        if len(notebook) > MAX_NOTEBOOK_BYTES:
            raise NotRendered(f"the notebook has {len(notebook):,} bytes, which is too much for a page: download it")
        name = (await asyncio.to_thread(hashlib.sha256, notebook)).hexdigest()
        if name not in self._made:
            async with self._turns.turn(user), self._turn:
                if name not in self._made:  # it may have been made meanwhile
                    self._keep(name, await self._make(notebook))
        self._made.move_to_end(name)
        return name, self._made[name]

    async def aclose(self) -> None:
        """End the child; a second call does nothing."""
        if self._ending is not None:
            self._ending.cancel()
        await self._end()  # whoever waits for its answer is told that there will be none
        async with self._turn:
            await self._end()

    def _keep(self, name: str, made: bytes) -> None:
        self._made[name] = made
        while len(self._made) > 1 and sum(map(len, self._made.values())) > CACHE_BYTES:
            self._made.popitem(last=False)

    async def _make(self, notebook: bytes) -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._ask(notebook)
        except TimeoutError as exc:
            raise NotRendered("the notebook takes too long to become a page: download it") from exc
        except (OSError, asyncio.IncompleteReadError) as exc:
            raise NotRendered("the notebook needs too much memory to become a page: download it") from exc
        text = answer[1:].decode()
        if answer[:1] != DOCUMENT:
            raise NotRendered(f"this is no notebook that can be shown ({text})")
        return self._framed(text)

    def message(self, text: str, *, again: bool = False) -> bytes:
        """Return a document that says `text` in a notebook's place; a page that frames it may try `again`."""
        mark = " data-again" if again else ""
        return self._framed(f'<p class="message"{mark}>{html.escape(text)}</p>')

    def _framed(self, body: str) -> bytes:
        return self._frame.get_template("notebook.html").render(body=body).encode()

    async def _ask(self, notebook: bytes) -> bytes:
        """Return the child's answer; a child that was left in the middle of one is of no more use."""
        child = await self._ready_child()
        whole = False
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(LENGTH.pack(len(notebook)) + notebook)
            await child.stdin.drain()
            (length,) = LENGTH.unpack(await child.stdout.readexactly(LENGTH.size))
            answer = await child.stdout.readexactly(length)
            whole = True
            return answer
        finally:
            if not whole:
                await self._end()

    async def _ready_child(self) -> asyncio.subprocess.Process:
        """Return the child, which will end when nothing is asked of it for a while."""
        if self._ending is not None:
            self._ending.cancel()
        if self._child is None or self._child.returncode is not None:
            environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "jupyterhub_agentfarm.agents.pages.notebook_html"),
                env=environment | {"JUPYTER_NO_CONFIG": "1"},
                cwd="/",
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
            )
        self._ending = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._let_go)
        return self._child

    def _let_go(self) -> None:
        """Let the child end by itself: there is no more to read."""
        if self._child is not None and self._child.stdin is not None and not self._turn.locked():
            self._child.stdin.close()
            self._child = None

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            child.kill()
            await child.wait()
