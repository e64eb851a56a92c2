"""Calls that may hang for ever: NVML when the driver is stuck, statvfs when a file server is gone.

Each has one thread of its own. While a call hangs no second one is made, so that nothing piles up; when it returns,
the next one is made as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class CallHangs(Exception):
    """The call has not returned for longer than it may take.

    Parameters
    ----------
    name
        What was called.
    seconds
        For how long it has not returned.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"{name} has not answered for {seconds:.0f} s")


class SlowCall(Generic[T]):
    """One blocking function, called in one thread, one call at a time.

    Parameters
    ----------
    name
        What is called, for messages and the thread's name.
    function
        What to call.
    timeout
        Seconds after which a call counts as hanging.
    """

    def __init__(self, name: str, function: Callable[[], T], timeout: float) -> None:
        self._name, self._function, self._timeout = name, function, timeout
        self._wanted: queue.SimpleQueue[asyncio.Future[T]] = queue.SimpleQueue()
        self._call: asyncio.Future[T] | None = None
        self._called_at = 0.0
        self._thread: threading.Thread | None = None

    async def poll(self, patience: float) -> T | None:
        """Return the result of a call, or None when it is not there within `patience` seconds.

        Raises
        ------
        CallHangs
            The call has been under way for longer than the timeout.
        """
        if self._call is None or self._call.done():
            self._call = self._begin()
        call = self._call
        await asyncio.wait({call}, timeout=patience)
        if call.done():
            return call.result()
        seconds = time.monotonic() - self._called_at
        if seconds >= self._timeout:
            raise CallHangs(self._name, seconds)
        return None

    def _begin(self) -> asyncio.Future[T]:
        if self._thread is None:
            # A daemon thread: a hanging call must not keep noded from exiting.
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        call: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # Nobody may be waiting any more when it fails at last.
        call.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._called_at = time.monotonic()
        self._wanted.put(call)
        return call

    def _work(self) -> None:
        while True:
            call = self._wanted.get()
            try:
                result = self._function()
            except Exception as exc:  # noqa: BLE001 - carried over to whoever polls
                self._deliver(call, call.set_exception, exc)
            else:
                self._deliver(call, call.set_result, result)

    @staticmethod
    def _deliver(call: asyncio.Future[T], setter: Callable[..., None], value: object) -> None:
        def deliver() -> None:
            if not call.done():
                setter(value)

        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            call.get_loop().call_soon_threadsafe(deliver)
