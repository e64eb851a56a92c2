"""One execution in a kernel: from the request to the reply and everything it has shown.

An execution ends when the kernel's reply has come and everything it published before, or when it is known that they
never will: the kernel died, was restarted or shut down, or its server is lost. It ends once; what comes later is
passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .kernel_messages import KernelMessage
from .outputs import Outputs, code_error

#: How an execution ended. `error`: by an exception of the code; `aborted`: the kernel dropped it from its line.
Status = Literal[
    "ok", "error", "aborted", "timeout", "interrupted", "kernel_died", "kernel_restarted", "server_lost", "output_lost"
]
#: After a reply, what the code has published follows at once; after this many seconds it will not.
_PUBLISHED_SECONDS = 5.0


@dataclass(frozen=True)
class Ended:
    """How an execution has ended."""

    status: Status
    #: For whoever gave the code, when there is more to say than the status.
    detail: str = ""
    execution_count: int | None = None


class Execution:
    """One execution; messages of its kernel are given to it, its end is awaited."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs
        #: Whether the kernel has begun with it.
        self.begun = False
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._reply: Mapping[str, Any] | None = None
        self._idle = False
        self._giving_up: asyncio.TimerHandle | None = None

    def take(self, message: KernelMessage) -> None:
        """Take a message that answers this execution's request."""
        if self.ended.done():
            return
        if message.kind == "execute_reply":
            self._reply = message.content
            self._giving_up = asyncio.get_running_loop().call_later(_PUBLISHED_SECONDS, self._conclude)
        elif message.kind == "status":
            self._idle = message.content.get("execution_state") == "idle"
            self.begun = True
        elif message.channel == "iopub":
            self.outputs.add(message.kind, message.content)
        if self._reply is not None and self._idle:
            self._conclude()

    def end(self, status: Status, detail: str) -> None:
        """End without the kernel's reply."""
        self._finish(Ended(status, detail))

    def _conclude(self) -> None:
        reply = self._reply or {}
        status: Status = {"ok": "ok", "error": "error"}.get(str(reply.get("status")), "aborted")  # type: ignore[assignment]
        detail = ""
        if status == "error" and self.outputs.error is None:
            self.outputs.error = code_error(reply)
        if status == "aborted":
            detail = "the kernel dropped the code from its line, because something before it failed: send it again"
        elif not self._idle:
            detail = "some of the output may be missing"
        self._finish(Ended(status, detail, reply.get("execution_count")))

    def _finish(self, ended: Ended) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
        if not self.ended.done():
            self.ended.set_result(ended)
