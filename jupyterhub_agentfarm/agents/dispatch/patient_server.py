"""PatientServer: the server of an attempt, which is asked again and again until it answers or is lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from ...errors import AgentFarmError, ConflictError, FarmUnavailable, Fenced, HubApiError, NodeUnreachable
from ...runs.client import RunRefused, ServerRuns, ServerUnready
from ..models import Attempt
from .loss import LossWatch
from .outcomes import Outcome, Over

if TYPE_CHECKING:
    from .carriers import Carriers

T = TypeVar("T")

#: How often a refused token is replaced before the refusal counts.
_MOST_TOKENS = 3


class PatientServer:
    """The server that an attempt is in.

    Parameters
    ----------
    attempt
        As it is when the server is asked for the first time.
    parts
        What all carriers use.
    """

    def __init__(self, attempt: Attempt, parts: Carriers) -> None:
        self._agent, self.name, self._parts = attempt.agent, attempt.server_name, parts
        server = (attempt.agent, attempt.server_name)
        self._loss = LossWatch(server, parts.farm, parts.news, parts.servers, parts.loss_patience)
        self._heard_at = time.monotonic()
        self.runs = self._runs_on(attempt.node)

    def _runs_on(self, node: str | None) -> ServerRuns:
        url = self._parts.servers.url(self._agent, self.name)
        return ServerRuns(self._parts.session, url, node or "its node", self._headers, self._parts.request_timeout)

    async def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"token {await self._parts.tokens.get(self._agent)}"}

    def node(self) -> str | None:
        """Return the node that it is or was on; None where that is not known."""
        return self._loss.node()

    def started(self) -> str | None:
        """Note that the server is there now; return its node."""
        self.heard()
        self.runs = self._runs_on(self.node())
        return self.node()

    def heard(self) -> float:
        """Note that the server, or somebody else that matters, answered now; return the time."""
        self._heard_at = time.monotonic()
        return self._heard_at

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Return the server's answer, which may take a while.

        Raises
        ------
        Over
            The server is lost, or cannot answer any more.
        """
        tokens = 0
        unready_at: float | None = None
        began_at = self.heard()
        while True:
            try:
                return await self._unless_lost(question())
            except ServerUnready as exc:
                unready_at = self._bear(exc, self.heard() if unready_at is None else unready_at)
            except NodeUnreachable:
                unready_at = None
            except FarmUnavailable:  # the database, where what the server gave is to be kept
                self.heard()
            except RunRefused as exc:
                tokens += 1
                if exc.status != 403 or tokens > _MOST_TOKENS:
                    raise
                self._parts.tokens.forget(self._agent)
            except Fenced:
                raise
            except (HubApiError, ConflictError) as exc:
                self._without_token(exc, began_at)
            await self._check_loss()
            await asyncio.sleep(self._parts.retry_interval)

    def _bear(self, exc: ServerUnready, since: float) -> float:
        """Bear that the server is there and fails, as long as patience lasts; return since when."""
        if self.heard() - since > self._parts.patience:
            raise Over(Outcome("server_lost", f"for {self._parts.patience:g} s it could do nothing: {exc.message}"))
        return since

    def _without_token(self, exc: HubApiError | ConflictError, began_at: float) -> None:
        """Bear that there is no token for the server: the Hub is away, or the agent is not active.

        Whoever ended the agent's activity ends its attempts too.
        """
        late = self.heard() - began_at > self._parts.patience
        if late and isinstance(exc, ConflictError):
            raise Over(Outcome("agent_suspended", exc.message)) from exc
        if late and isinstance(exc, HubApiError) and 400 <= exc.status < 500:
            raise Over(Outcome("internal", f"there is no token for its server: {exc.message}")) from exc

    async def _unless_lost(self, question: Awaitable[T]) -> T:
        """Return an answer; while there is none, look whether there will be."""
        asking = asyncio.ensure_future(question)
        try:
            while not (await asyncio.wait({asking}, timeout=self._parts.retry_interval))[0]:
                if time.monotonic() - self._heard_at > self._parts.loss_grace:
                    await self._check_loss()
            answer = asking.result()
            self.heard()
            return answer
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, AgentFarmError):
                await asking

    async def _check_loss(self) -> None:
        lost = await self._loss.verdict(time.monotonic() - self._heard_at)
        if lost is not None:
            raise Over(Outcome(lost.reason, lost.detail))
