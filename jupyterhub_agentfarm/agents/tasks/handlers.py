"""The tasks' part of the API."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any, BinaryIO, ClassVar, get_args
from urllib.parse import quote

from tornado import iostream, web

from ...bodies import check_content_type
from ...errors import InvalidField, NotFoundError
from ...records import to_json
from ...services.handlers import NoOrder
from ...services.large_bodies import LargeBodyHandler
from ...services.sse import stream_events
from ..access import SUBMIT, acts_for, author, in_project, sees_all, sees_task, unknown_agent
from ..models import Agent, Artifact, HandOver, Task, TaskState
from ..registry.handlers import API, RegistryHandler
from ..registry.hub_users import HubUsers
from . import rules as task_rules
from .book import TaskBook
from .events import board_events, task_events
from .files import pieces
from .store import TaskFilter, Viewer
from .tables import no_task

MOST_LISTED = 1000
#: Of documents that somebody else wrote: nothing in them is shown or run.
SEALED = "sandbox; default-src 'none'"
_ID = r"([0-9a-f]{16})"
_WHICH = ("submitted", "executed")


class BookHandler(RegistryHandler):
    """A handler that knows the tasks."""

    @property
    def book(self) -> TaskBook:
        """The service's tasks."""
        book: TaskBook = self.service.book
        return book

    def sees(self, task: Task) -> bool:
        """Whether whoever asks may see the task."""
        agent, asked = self.registry.find(task.agent), self.registry.find(task.assignee or "")
        offered = asked is not None and acts_for(self.principal, asked)
        return agent is not None and (offered or sees_task(self.principal, task, agent, self.own))

    def viewer(self) -> Viewer | None:
        """Return whoever asks, for the database; None: they see all tasks."""
        if sees_all(self.principal):
            return None
        if self.principal.kind != "user":
            return Viewer("")
        mine = tuple(agent.name for agent in self.registry.agents() if acts_for(self.principal, agent))
        projects = (*self.principal.groups, *(self.own.projects if self.own else ()))
        return Viewer(self.principal.name, mine, projects)

    def allowed(self) -> Callable[[], bool]:
        """Return what says, later on, whether whoever asks may still follow: no agent whose tokens were revoked may."""
        revoked = self.registry.revocations[self.principal.name]

        def allowed() -> bool:
            own = self.own and self.registry.find(self.own.name)
            return own is None or (own.state == "active" and self.registry.revocations[own.name] == revoked)

        return allowed

    async def seen_task(self, task_id: str) -> tuple[Task, Agent]:
        """Return a task that whoever asks may see, and its agent.

        Raises
        ------
        NotFoundError
            There is none, or it may not be seen.
        """
        task = await self.book.task(task_id)
        if not self.sees(task):
            raise no_task(task_id)
        return task, self.registry.agent(task.agent)

    async def own_task(self, task_id: str) -> tuple[Task, Agent]:
        """Return a task for whose agent whoever asks may act, and its agent.

        Raises
        ------
        NotFoundError
            There is none, or it may not be seen.
        tornado.web.HTTPError
            It may only be seen.
        """
        task, agent = await self.seen_task(task_id)
        if not acts_for(self.principal, agent):
            raise web.HTTPError(403, f"only {agent.name} and its owner may do this with its tasks")
        return task, agent

    async def send(self, content: AsyncGenerator[bytes, None], first: bytes = b"") -> None:
        """Finish with `content`, of which there is one piece in memory at a time, however slowly it is read."""
        try:
            self.write(first)
            async for chunk in content:
                await self.flush()
                self.write(chunk)
            await self.finish()
        except iostream.StreamClosedError:
            pass  # the client went away
        finally:
            await content.aclose()

    def text(self, name: str) -> str | None:
        """Return an argument of the query, or None where it is absent or empty.

        Raises
        ------
        InvalidField
            It is too long.
        """
        value: str = self.get_query_argument(name, "")
        if len(value) > 255 or "\0" in value:
            raise InvalidField(name, "at most 255 characters, none of them null", value)
        return value or None

    def last_event(self) -> int | None:
        """Return the number of the last event that a follower has seen; None: it has seen none.

        Raises
        ------
        InvalidField
            The header Last-Event-ID is no number.
        """
        text = self.request.headers.get("Last-Event-ID", "")
        if not text:
            return None
        if not re.fullmatch("[0-9]{1,18}", text):
            raise InvalidField("Last-Event-ID", "the number of an event", text)
        return int(text)


class TasksHandler(LargeBodyHandler, BookHandler):
    """All tasks."""

    scopes: ClassVar[dict[str, str]] = {"POST": SUBMIT}
    body_bound: ClassVar[str] = "max_task_body_bytes"

    async def get(self) -> None:
        """List the tasks that you may see, the newest first; `cursor` of the answer continues the list."""
        wanted = self._wanted()
        tasks = await self.book.tasks(wanted)
        cursor = tasks[-1].id if len(tasks) == wanted.limit else None
        self.answer({"tasks": tasks, "cursor": cursor})

    async def post(self) -> None:
        """Submit a task; 200 when the idempotency key is that of one which is there."""
        body = self.received()
        check_content_type(self.request.headers.get("Content-Type", ""))
        submitted = await self.service.intake.read(body, self.principal.name)
        del body
        agent = self._agent(submitted.request.agent)
        task_rules.check_request(submitted, agent, self.principal, self.own)
        await task_rules.check_dependencies(submitted.request.after, agent, self.book.task, self.sees)
        given = (submitted.request, agent.name, author(self.principal), submitted.notebook)
        about = {"digest": submitted.digest, "kernel": submitted.askable_kernel}
        task, new = await self.book.submit(*given, **about)
        self.answer(task, 201 if new else 200)

    def _agent(self, name: str | None) -> Agent:
        """Return the agent that is to do a task."""
        if name is None and self.own is None:
            raise InvalidField("agent", "the name of the agent that is to do it: you are none yourself", None)
        agent = self.own if name is None else self.registry.find(name)
        if agent is None or not acts_for(self.principal, agent):
            raise unknown_agent(name or "")
        return agent

    def _wanted(self) -> TaskFilter:
        states = tuple(self._state(text) for text in self.get_query_arguments("state"))
        cursor = self.text("cursor")
        return TaskFilter(
            viewer=self.viewer(),
            states=states,
            agent=self.text("agent"),
            project=self.text("project"),
            name=self.text("name") or "",
            limit=self._limit(),
            cursor=None if cursor is None else task_rules.check_task_id(cursor, "cursor"),
        )

    def _state(self, text: str) -> TaskState:
        for state in get_args(TaskState):
            if text == state:
                found: TaskState = state
                return found
        raise InvalidField("state", "one of " + ", ".join(get_args(TaskState)), text)

    def _limit(self) -> int:
        text = self.text("limit") or "100"
        if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= MOST_LISTED:
            raise InvalidField("limit", f"a whole number from 1 to {MOST_LISTED}", text)
        return int(text)


class TaskHandler(BookHandler):
    """One task."""

    scopes: ClassVar[dict[str, str]] = {"DELETE": SUBMIT}

    async def delete(self, task_id: str) -> None:
        """Forget a task that has ended, with its notebooks and files."""
        await self.own_task(task_id)
        await self.book.remove(task_id)
        self.answer({})

    async def get(self, task_id: str) -> None:
        """Answer the task with its attempts, changes, artifacts, and how far it is."""
        task, _ = await self.seen_task(task_id)
        view = {"attempts": await self.book.attempts(task_id), "changes": await self.book.changes(task_id)}
        view |= {"artifacts": await self.book.artifacts(task_id), "progress": self.book.progress_of(task_id)}
        self.answer(to_json(task) | view)


class CancelHandler(BookHandler):
    """The end of a task."""

    scopes: ClassVar[dict[str, str]] = {"POST": SUBMIT}

    async def post(self, task_id: str) -> None:
        """Cancel a task: at once, or when its attempt has been stopped."""
        self.body(NoOrder)
        await self.own_task(task_id)
        self.answer(await self.book.cancel(task_id, self.principal.name))


class RetryHandler(BookHandler):
    """One more attempt of a task."""

    scopes: ClassVar[dict[str, str]] = {"POST": SUBMIT}

    async def post(self, task_id: str) -> None:
        """Allow a cancelled or discarded task one more attempt."""
        self.body(NoOrder)
        _, agent = await self.own_task(task_id)
        if agent.state == "retired":
            raise InvalidField("task", "one of an agent that is not retired: hand it over first", agent.name)
        self.answer(await self.book.retry(task_id, self.principal.name))


class HandOverHandler(BookHandler):
    """The handing over of a task."""

    scopes: ClassVar[dict[str, str]] = {"POST": SUBMIT}

    async def post(self, task_id: str) -> None:
        """Have an agent that you act for take a task over and execute it, or offer it to another agent or a person."""
        order = self.body(HandOver)
        task, agent = await self.seen_task(task_id)
        taker = self.registry.find(order.to)
        self._check_giver(task, agent, taker)
        if taker is None:
            await task_rules.check_person(order.to, task, agent, self.principal, HubUsers(self.service.hub))
        else:
            task_rules.check_taker(task, agent, taker, self.principal)
        given = (task_id, order.to, self.principal.name, order.note)
        if taker is None or not acts_for(self.principal, taker):
            self.answer(await self.book.hand_over(*given))
            return
        # What a task computes has its agent's files and token: so only who acts for an agent has it execute something.
        task_rules.check_needs(task, taker)
        most = task_rules.most_priority(self.principal, taker)
        self.answer(await self.book.take_over(*given, most_priority=most))

    def _check_giver(self, task: Task, agent: Agent, taker: Agent | None) -> None:
        """Refuse who neither acts for the task's agent, nor is in its project, nor takes what was offered."""
        offered = taker is not None and task.assignee == taker.name and acts_for(self.principal, taker)
        mine = acts_for(self.principal, agent) or in_project(self.principal, task.request.project, self.own)
        if not (mine or offered):
            raise web.HTTPError(403, f"only {agent.name}, its owner and members of the task's project may do this")


class NotebookHandler(BookHandler):
    """The notebook of a task."""

    async def get(self, task_id: str) -> None:
        """Answer the notebook as it was executed so far, or else as it was submitted; `which` names one of the two."""
        which = self.text("which")
        if which not in (None, *_WHICH):
            raise InvalidField("which", "submitted or executed", which)
        await self.seen_task(task_id)
        stream = await self._open(task_id, which)
        about = os.fstat(stream.fileno())
        seal(self, f"{task_id}.ipynb", "application/x-ipynb+json")
        self.set_header("Etag", f'"{about.st_ino:x}-{about.st_mtime_ns:x}-{about.st_size:x}"')
        if self.check_etag_header():
            stream.close()
            self.set_status(304)
            await self.finish()
            return
        self.set_header("Content-Length", about.st_size)
        await self.send(pieces(stream))

    async def _open(self, task_id: str, which: str | None) -> BinaryIO:
        files = self.book.files
        try:
            return await files.open_notebook(task_id, which or "executed")
        except NotFoundError:
            if which is not None:
                raise
            return await files.open_notebook(task_id, "submitted")


class ArtifactHandler(BookHandler):
    """A file that a task left."""

    async def get(self, task_id: str, path: str) -> None:
        """Answer the file that the newest attempt, or the one named by `attempt`, left at this path."""
        number = self.text("attempt")
        if number is not None and not re.fullmatch("[0-9]{1,6}", number):
            raise InvalidField("attempt", "the number of an attempt", number)
        await self.seen_task(task_id)
        found = await self._find(task_id, path, None if number is None else int(number))
        content = self.book.files.artifact(found)
        first = await anext(content, b"")
        seal(self, path.rpartition("/")[2], "application/octet-stream")
        self.set_header("Content-Length", found.size_bytes)
        self.set_header("Etag", f'"{found.sha256}"')
        await self.send(content, first)

    async def _find(self, task_id: str, path: str, attempt: int | None) -> Artifact:
        kept = await self.book.artifacts(task_id)
        matching = [each for each in kept if each.path == path and attempt in (None, each.attempt)]
        if not matching:
            raise NotFoundError(f"task {task_id} has left no file {path!r}")
        return matching[-1]


class TaskEventsHandler(BookHandler):
    """What happens to a task."""

    async def get(self, task_id: str) -> None:
        """Send changes, attempts, progress and artifacts until the task has ended, after those since Last-Event-ID."""
        after, allowed = self.last_event() or 0, self.allowed()
        await self.seen_task(task_id)
        await stream_events(self, task_events(self.book, task_id, after, self.sees), allowed)


class BoardEventsHandler(BookHandler):
    """What happens to all tasks."""

    async def get(self) -> None:
        """Send the changes of all tasks that you may see, after those since Last-Event-ID."""
        after = self.last_event()
        events = board_events(self.book, self.sees, after, self.viewer())
        await stream_events(self, events, self.allowed())


def seal(handler: web.RequestHandler, name: str, media: str) -> None:
    """Have what is answered be kept as a file, and never be shown as a page of ours."""
    handler.set_header("Content-Type", media)
    handler.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(name, safe='')}")
    handler.set_header("Content-Security-Policy", SEALED)
    handler.set_header("X-Content-Type-Options", "nosniff")


#: Routes below the service's prefix.
ROUTES: list[tuple[Any, ...]] = [
    (API + r"tasks", TasksHandler),
    (API + rf"tasks/{_ID}", TaskHandler),
    (API + rf"tasks/{_ID}/cancel", CancelHandler),
    (API + rf"tasks/{_ID}/retry", RetryHandler),
    (API + rf"tasks/{_ID}/handover", HandOverHandler),
    (API + rf"tasks/{_ID}/notebook", NotebookHandler),
    (API + rf"tasks/{_ID}/artifacts/(.+)", ArtifactHandler),
    (API + rf"tasks/{_ID}/events", TaskEventsHandler),
    (API + r"events", BoardEventsHandler),
]
