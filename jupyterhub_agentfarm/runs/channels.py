"""A kernel client that loses no message if it can, and counts those it does lose.

A kernel publishes its output on a ZeroMQ socket that drops what its reader does not take in time, in silence. Two
things are done about it. The reader's own queue is long (stock clients: 1000 messages). And the messages are counted:
IPython's kernel numbers everything it sends (``<session>_<pid>_<number>``), so a message that never arrived leaves a
gap. Kernels that number otherwise are not counted.

A kernel is ready when a question was answered *and* what it published about the question arrived, to the "idle" that
is the last of it: from then on nothing that it publishes is sent before somebody reads. (`wait_for_ready` of
jupyter_client waits for a fifth of a second of silence instead, which is half of what a brief notebook takes.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from queue import Empty
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from traitlets import Type

#: Messages that may wait to be read. A burst of this many arrives whole; an endless one cannot fill the memory.
QUEUE_MESSAGES = 250_000
#: What a kernel may take to answer a question, in seconds, before it is asked anew; and to publish something about it.
_ANSWER_SECONDS, _PUBLISH_SECONDS = 1.0, 0.2


class Tally:
    """Counts the messages of a kernel between two moments, over all its channels."""

    def __init__(self) -> None:
        self._sender: str | None = None
        self._base = self._highest = -1
        self._received = 0

    def note(self, message_id: str) -> None:
        """Count a message that has arrived."""
        sender, _, number = message_id.rpartition("_")
        if not sender or not number.isdecimal():
            return
        # A process that the kernel forked numbers on its own; only the kernel's first process is counted.
        self._sender = self._sender or sender
        if sender == self._sender and int(number) > self._base:
            self._received += 1
            self._highest = max(self._highest, int(number))

    def begin(self) -> None:
        """Count anew from here."""
        self._base, self._received = self._highest, 0

    def missing(self) -> int:
        """Return how many messages, before the newest that arrived, have not arrived since `begin`."""
        return self._highest - self._base - self._received


class CountedChannel(AsyncZMQSocketChannel):
    """A channel that notes every message it gets."""

    tally: Tally | None = None

    async def get_msg(  # type: ignore[override]
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is Jupyter's
    ) -> dict[str, Any]:
        """Return the next message."""
        message = await super().get_msg(timeout)
        if self.tally is not None:
            self.tally.note(message["header"]["msg_id"])
        return message


class CountedClient(AsyncKernelClient):
    """A client whose `tally` counts what arrives on the channels that a notebook's execution reads."""

    shell_channel_class = Type(CountedChannel)
    iopub_channel_class = Type(CountedChannel)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tally = Tally()

    def _context_default(self) -> zmq.asyncio.Context:
        context = super()._context_default()
        context.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
        return context

    def start_channels(self, *args: Any, **options: Any) -> None:
        """Start the channels and count from the first message on."""
        super().start_channels(*args, **options)
        self.shell_channel.tally = self.iopub_channel.tally = self.tally

    async def until_ready(self, seconds: float) -> Mapping[str, Any]:
        """Return what the kernel says about itself, as soon as it can be used.

        Raises
        ------
        RuntimeError
            It died, or that took longer than so many seconds.
        """
        deadline = time.monotonic() + seconds
        asked: set[str] = set()
        while True:
            asked.add(self.kernel_info())
            reply = await self._answer(asked)
            if reply is not None and await self._published(asked):
                self._handle_kernel_info_reply(reply)
                return dict(reply["content"])
            if not await self.is_alive():
                raise RuntimeError("it died before it answered")
            if time.monotonic() > deadline:
                raise RuntimeError(f"it did not answer within {seconds:g} s")

    async def _answer(self, asked: set[str]) -> dict[str, Any] | None:
        """Return the answer to one of the questions, or None."""

        def answers(message: dict[str, Any]) -> bool:
            return message["msg_type"] == "kernel_info_reply" and message["parent_header"].get("msg_id") in asked

        read = await _read(self.shell_channel, answers, _ANSWER_SECONDS)
        return read[-1] if read and answers(read[-1]) else None

    async def _published(self, asked: set[str]) -> bool:
        """Whether the kernel's "idle" after one of the questions arrives, or at least something."""

        def idle(message: dict[str, Any]) -> bool:
            state = message["content"].get("execution_state") if message["msg_type"] == "status" else None
            return state == "idle" and message["parent_header"].get("msg_id") in asked

        return bool(await _read(self.iopub_channel, idle, _PUBLISH_SECONDS))


async def _read(channel: Any, last: Callable[[dict[str, Any]], bool], seconds: float) -> list[dict[str, Any]]:
    """Return the messages up to one that is the last, or until the time is over."""
    deadline = time.monotonic() + seconds
    read: list[dict[str, Any]] = []
    while not (read and last(read[-1])) and (left := deadline - time.monotonic()) > 0:
        try:
            read.append(await channel.get_msg(timeout=left))
        except Empty:
            break
    return read
