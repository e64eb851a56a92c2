"""The HTTP API of runs, behind the server's own authentication."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
from http import HTTPStatus
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from ..bodies import check_content_type, decode
from ..errors import AgentFarmError, BodyTooLarge, InvalidField, NoSpace, NotFoundError
from ..records import from_json, to_json
from .artifacts import open_artifact
from .book import RunBook
from .events import EventFeed
from .models import MOST_WAIT_SECONDS, RunRequest
from .notebooks import results

#: Seconds without an event after which a comment is sent, so that proxies keep the connection.
KEEPALIVE_SECONDS = 15

#: A notebook with large outputs is some tens of MiB; the server itself reads up to `ServerApp.max_body_size`.
MAX_BODY_BYTES = 64 * 2**20

#: How much of a file is sent at a time.
CHUNK_BYTES = 2**20

#: What a disk says that takes no more.
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_REASONS = {400: "invalid", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def handlers(base_url: str, book: RunBook) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """Return the routes below `base_url`, for `Application.add_handlers`."""
    one = r"agentfarm/api/v1/runs/(?P<run_id>[0-9a-f]{16})"
    routes: list[tuple[str, type[web.RequestHandler]]] = [
        (r"agentfarm/api/v1/runs/?", RunsHandler),
        (one, RunHandler),
        (one + "/cancel", CancelHandler),
        (one + "/events", EventsHandler),
        (one + "/notebook", NotebookHandler),
        (one + "/results", ResultsHandler),
        (one + "/artifacts", ArtifactsHandler),
        (one + "/artifacts/(?P<path>.+)", ArtifactHandler),
        (r"agentfarm/api/v1/openapi\.json", DescriptionHandler),
        (r"agentfarm/api/v1/runs/.*", NothingHandler),
    ]
    return [(url_path_join(base_url, pattern), handler, {"book": book}) for pattern, handler in routes]


class _Handler(APIHandler):
    auth_resource = "agentfarm_runs"

    def initialize(self, book: RunBook) -> None:
        self.book = book

    def write_error(self, status_code: int, **options: Any) -> None:
        """Answer every error as `{"message", "reason"}`."""
        error = options["exc_info"][1] if options.get("exc_info") else None
        message, reason = "The server failed; see its log.", "error"
        if isinstance(error, AgentFarmError):
            self.set_status(error.http_status)
            message, reason = error.message, error.reason
        elif isinstance(error, OSError):
            message, reason = self._unwritable(error)
        elif isinstance(error, web.HTTPError):
            message = error.log_message or HTTPStatus(status_code).phrase
            reason = _REASONS.get(status_code, "error")
        self.finish(json.dumps({"message": message, "reason": reason}))

    def _unwritable(self, error: OSError) -> tuple[str, str]:
        """Answer what the user's disk did; a folder of runs that is full, or gone, is no fault of this software."""
        self.set_status(507)
        return f"The server's disk failed: {error.strerror or error}.", disk_reason(error)

    def log_exception(self, *exc_info: Any) -> None:
        """Log faults, but not refusals: those are the asker's to read."""
        if not isinstance(exc_info[1], AgentFarmError):
            super().log_exception(*exc_info)


class RunsHandler(_Handler):
    """Submit a notebook, list runs."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Take a `RunRequest`."""
        if len(self.request.body) > MAX_BODY_BYTES:
            raise BodyTooLarge(MAX_BODY_BYTES)
        check_content_type(self.request.headers.get("Content-Type", ""))
        request = await asyncio.to_thread(_request, self.request.body)
        run, new = await self.book.submit(request)
        self.set_status(201 if new else 200)
        self.set_header("Location", url_path_join(self.request.path, run.id))
        self.finish(json.dumps(to_json(run)))

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List all runs, newest first."""
        self.finish(json.dumps({"runs": to_json(self.book.runs())}))


class RunHandler(_Handler):
    """One run."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Answer the run: at once, or with `wait_seconds` when it has ended, and no later than then."""
        journal = self.book.journal(run_id)
        await journal.until_ended(self._wait_seconds())
        self.finish(json.dumps(to_json(journal.run)))

    def _wait_seconds(self) -> float:
        text = self.get_query_argument("wait_seconds", "0")
        with contextlib.suppress(ValueError):
            if 0 <= (seconds := float(text)) <= MOST_WAIT_SECONDS:
                return seconds
        raise InvalidField("wait_seconds", f"a number from 0 to {MOST_WAIT_SECONDS:g}", text)

    @web.authenticated
    @authorized
    async def delete(self, run_id: str) -> None:
        """Remove a run that has ended."""
        await asyncio.to_thread(self.book.forget(run_id).remove)
        self.set_status(204)
        self.finish()


class CancelHandler(_Handler):
    """Cancel a run."""

    @web.authenticated
    @authorized
    async def post(self, run_id: str) -> None:
        """Have the run end; it has not when the answer comes, unless it was queued."""
        self.finish(json.dumps(to_json(self.book.cancel(run_id))))


class NotebookHandler(_Handler):
    """The notebook of a run."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Answer the notebook as executed so far."""
        path = self.book.journal(run_id).notebook_path
        try:
            notebook = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError as exc:
            raise NotFoundError(f"The notebook of run {run_id} is gone.") from exc
        self.finish(notebook)


class ResultsHandler(_Handler):
    """The results of a run."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Answer what the notebook published so far."""
        try:
            notebook = await asyncio.to_thread(self.book.journal(run_id).read_notebook)
        except FileNotFoundError as exc:
            raise NotFoundError(f"The notebook of run {run_id} is gone.") from exc
        self.finish(json.dumps(results(notebook)))


class ArtifactsHandler(_Handler):
    """The files that a run left in its artifacts folder."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Answer what there is so far, each with its size and checksum, and what is left out."""
        self.finish(json.dumps(to_json(await self.book.artifacts(run_id))))


class ArtifactHandler(_Handler):
    """One file of a run's artifacts folder."""

    @web.authenticated
    @authorized
    async def get(self, run_id: str, path: str) -> None:
        """Send the file."""
        folder = self.book.journal(run_id).artifacts_folder
        descriptor = await asyncio.to_thread(open_artifact, folder, path)
        try:
            await self._send(descriptor, os.fstat(descriptor).st_size)
        except StreamClosedError:
            return  # the reader went away
        finally:
            os.close(descriptor)
        self.finish(set_content_type="application/octet-stream")

    async def _send(self, descriptor: int, left: int) -> None:
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", "attachment")
        self.set_header("Content-Length", left)
        # What is appended meanwhile is not of the file that was announced.
        while left > 0:
            chunk = await asyncio.to_thread(os.read, descriptor, min(left, CHUNK_BYTES))
            if not chunk:  # it has become shorter: the reader must not take what it has for the whole
                self.detach().close()
                raise StreamClosedError
            self.write(chunk)
            await self.flush()
            left -= len(chunk)


class EventsHandler(_Handler):
    """The events of a run, as they happen."""

    _gone: asyncio.Event | None = None

    @web.authenticated
    @authorized
    async def get(self, run_id: str) -> None:
        """Send events until the run has ended or the follower goes away."""
        feed = self.book.journal(run_id).feed
        seq = self._after()
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")
        try:
            await self.flush()
            await self._follow(feed, seq)
        except StreamClosedError:
            return
        self.finish(set_content_type="text/event-stream")

    async def _follow(self, feed: EventFeed, seq: int) -> None:
        while not feed.over(seq):
            events = await feed.after(seq, KEEPALIVE_SECONDS)
            self.write("".join(event.to_sse() for event in events) or ": waiting\n\n")
            await self.flush()
            seq = events[-1].seq if events else seq

    def _after(self) -> int:
        text = self.request.headers.get("Last-Event-ID") or self.get_argument("after", "0")
        if not text.isascii() or not text.isdecimal() or len(text) > 15:
            raise InvalidField("Last-Event-ID", "the id of an event", text)
        return int(text)


class DescriptionHandler(_Handler):
    """The description of this API."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Describe this API in OpenAPI 3.1."""
        from .api import description  # it describes the handlers of this module

        self.finish(json.dumps(description(url_path_join(self.base_url, "agentfarm/api/v1"))))


class NothingHandler(_Handler):
    """Every path below runs that is none of ours, in the same form as other errors."""

    async def prepare(self, **options: Any) -> None:
        """Answer 404 to whoever may ask."""
        await super().prepare(**options)
        if self.current_user is None:
            raise web.HTTPError(403)
        raise NotFoundError(f"There is nothing at {self.request.path}.")


def disk_reason(error: OSError) -> str:
    """Return the reason that an answer gives for what a disk did."""
    return NoSpace.reason if error.errno in _NO_SPACE else "disk"


def _request(body: bytes) -> RunRequest:
    return from_json(RunRequest, decode(body, constants=True))
