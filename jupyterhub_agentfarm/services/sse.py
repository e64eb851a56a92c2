"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

One event is ``id:``, ``event:`` and ``data:`` lines and an empty line; data is one line of JSON. A comment line every
15 s keeps proxies from closing a quiet stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from tornado import iostream, web

KEEPALIVE_SECONDS = 15.0
#: Name and data of an event, and the id that a follower who was cut off resumes from.
Sent = tuple[str, Any] | tuple[str, Any, int]


def encode_event(event: str, data: Any, event_id: int | None = None) -> str:
    """Return one event as it goes over the wire."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


async def stream_events(
    handler: web.RequestHandler, events: AsyncIterator[Sent], allowed: Callable[[], bool] = lambda: True
) -> None:
    """Send `events` (name, JSON-ready data, and for some an id) to the client until they end or it goes away.

    The iterator is closed in every case.

    Parameters
    ----------
    allowed
        Whether the client may still have them; asked before each event, and once in a while.
    """
    handler.set_header("Content-Type", "text/event-stream")
    handler.set_header("Cache-Control", "no-cache")
    handler.set_header("X-Accel-Buffering", "no")
    following = asyncio.ensure_future(_next(events))
    try:
        await handler.flush()
        while True:
            done, _ = await asyncio.wait({following}, timeout=KEEPALIVE_SECONDS)
            if not allowed():
                return
            if not done:
                handler.write(": keep-alive\n\n")
            elif (event := following.result()) is None:
                return
            else:
                handler.write(encode_event(*event))
                following = asyncio.ensure_future(_next(events))
            await handler.flush()
    except iostream.StreamClosedError:
        pass  # the client went away, which is how following ends
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


async def _next(events: AsyncIterator[Sent]) -> Sent | None:
    return await anext(events, None)
