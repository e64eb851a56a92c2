"""What all carriers use, and how patient they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
from traitlets.config import LoggingConfigurable

from ...errors import AgentFarmError
from ...runs.client import ServerRuns
from ...tasks import OwnedTasks
from ...traitlets import Seconds
from ..models import Attempt, Task, TaskReason
from ..tasks.book import TaskBook
from .carrier import Carried, Carrier
from .collecting import DiskPatience
from .loss import Farm, News, Patience
from .outcomes import Outcome
from .quota import Usage, gpu_hours_free_at
from .servers import TaskServers
from .warm import WarmServers

#: After these the next attempt is made elsewhere, so there is nothing to wait for.
_AT_ONCE: frozenset[TaskReason] = frozenset({"node_lost", "server_lost"})
_LEAST_QUOTA_PAUSE_SECONDS = 1.0
#: Longest pause between two tries to keep results on a disk that was full.
_LONGEST_DISK_PAUSE_SECONDS = 30.0


class Tokens(Protocol):
    """Gives tokens with which the servers of agents are reached."""

    async def get(self, agent: str) -> str:
        """Return a token."""

    def forget(self, agent: str) -> None:
        """Use the token no more."""


class Carriers(LoggingConfigurable):
    """Makes carriers.

    Parameters
    ----------
    book
        All tasks.
    servers, warm
        The servers of tasks, and those of them that wait.
    farm, news
        What is known of nodes and leases.
    tokens
        For the servers of agents.
    """

    poll_interval = Seconds(
        1,
        help="Time between two looks at how far a running notebook is, in seconds; its end is known at once. Smaller: "
        "progress is smoother; larger: fewer requests. At most half of `loss_grace` counts.",
    ).tag(config=True)
    retry_interval = Seconds(0.5, help="Pause before a server that did not answer is asked again, in seconds.").tag(
        config=True
    )
    request_timeout = Seconds(
        30, help="How long a server may take for one answer, in seconds, before it is asked anew."
    ).tag(config=True)
    loss_grace = Seconds(
        3,
        help="How long the server of an attempt may be silent while its node is unreachable, in seconds, before the "
        "attempt is lost and the task executes elsewhere. Smaller: dead nodes cost less time; larger: longer cuts of "
        "the network cost no attempt, which a node that is cut off would otherwise go on with for nothing.",
    ).tag(config=True)
    patience = Seconds(
        600,
        help="How long the server of an attempt may be silent while its node is well, in seconds, as when the proxy is "
        "down. Smaller: a server that hangs costs less time; larger: longer faults of the proxy cost no attempt.",
    ).tag(config=True)
    cancel_timeout = Seconds(
        15,
        help="How long a cancelled notebook may take to end, in seconds, before its server is stopped. Smaller frees "
        "the node sooner; larger keeps more partial notebooks, and more servers for the next task.",
    ).tag(config=True)
    retry_pause = Seconds(
        2,
        help="Pause before the second attempt of a task whose kernel died or whose server did not start, in seconds; "
        "doubled with every failure, up to `max_retry_pause`. A node that was lost costs no pause. Smaller: tasks are "
        "done sooner; larger: what fails again and again keeps the farm less busy.",
    ).tag(config=True)
    max_retry_pause = Seconds(300, help="Longest pause between two attempts, in seconds.").tag(config=True)
    quota_pause = Seconds(
        60,
        help="Pause before a task is tried again whose agent has used up its quota, in seconds, where the controller "
        "does not say when there is some again. Smaller: it goes on sooner; larger: fewer useless tries.",
    ).tag(config=True)
    max_quota_pause = Seconds(
        900.0,
        help="Longest pause before such a task is tried again, in seconds or as '15m', however late there will be some "
        "as the controller says. Smaller: hours that an admin adds are used sooner; larger: fewer useless tries.",
    ).tag(config=True)

    disk_timeout = Seconds(
        86400.0,
        help="How long an attempt that has ended waits on its node for room on this service's disk for its results, in "
        "seconds or as '24h'; it is tried again and again. After that its task executes anew, and the results stay on "
        "the node for as long as `RunBook.keep` says. Longer: a full disk costs no work; shorter: it keeps less of the "
        "nodes busy.",
    ).tag(config=True)

    def __init__(
        self,
        book: TaskBook,
        servers: TaskServers,
        warm: WarmServers,
        farm: tuple[Farm, News],
        tokens: Tokens,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.book, self.servers, self.warm, self.tokens = book, servers, warm, tokens
        self.farm, self.news = farm
        #: Gives the reason for which attempts of an agent end that is not active; None: it is.
        self.inactive: Callable[[str], TaskReason | None] = lambda _agent: None
        #: Tells, as the controller does, what each owner uses and may; None: nobody tells.
        self.usage: Usage | None = None
        self._session: aiohttp.ClientSession | None = None
        self._owned = OwnedTasks(self.log)

    async def aclose(self) -> None:
        """Close the connections; a second call does nothing."""
        await self._owned.aclose()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def make(self, carried: Carried, attempt: Attempt) -> Carrier:
        """Return the carrier of an attempt."""
        return Carrier(carried, attempt, self)

    @property
    def session(self) -> aiohttp.ClientSession:
        """For requests to servers: without cookies, which would bring the servers' XSRF checks upon us."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)  # an answer that hangs must not hold up other tasks
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=connector)
        return self._session

    @property
    def loss_patience(self) -> Patience:
        """How long silent servers are waited for."""
        return Patience(self.loss_grace, self.patience)

    @property
    def disk_patience(self) -> DiskPatience:
        """How a full disk is waited for."""
        return DiskPatience(self.retry_interval, _LONGEST_DISK_PAUSE_SECONDS, self.disk_timeout)

    async def pause_after(self, outcome: Outcome, task: Task) -> float:
        """Return how long a task waits after an attempt that ended so, if another one follows."""
        if outcome.reason in _AT_ONCE:
            return 0.0
        if outcome.reason != "quota":
            return float(min(self.retry_pause * 2.0 ** min(task.failures, 30), self.max_retry_pause))
        free_at = None if self.usage is None else await gpu_hours_free_at(self.usage, task.agent)
        pause = self.quota_pause if free_at is None else max(_LEAST_QUOTA_PAUSE_SECONDS, free_at - time.time())
        return float(min(pause, self.max_quota_pause))

    def tidy(self, runs: ServerRuns, run_id: str | None) -> None:
        """Have a server forget a run whose results are kept."""
        if run_id is not None:
            self._owned.start(_removed(runs, run_id), f"removing run {run_id}")


async def _removed(runs: ServerRuns, run_id: str) -> None:
    try:
        await runs.remove(run_id)
    except AgentFarmError:
        return  # the server keeps runs for some days and no longer
