"""Servers whose node failed are started again: ``user_options = {"restart": "on-node-failure"}``.

::

    node down, or restarted ─▶ lease ends ─▶ the Hub stops what is left: its route is gone, the spawner is cleared
                                                   └─▶ POST /hub/api/users/{name}/servers/{server} ─▶ another node

The new start is asked for in the user's name through the Hub's own API, with a token that can do nothing else and is
revoked at once: so the Hub's limits, its events and its page of a pending start are those of every start. It has the
options of the old one. What the server held in memory is lost, and the user is told so.

Once for each failure, and not more than `max_restarts` times within `restart_window`: what brings node after node down
is not carried through the whole farm. A server that ended by itself, was killed for want of memory, was stopped, or did
not come up is not started again. A Hub that was down when the node failed does it when it is back, in its check of the
servers that it left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
from jupyterhub import orm
from jupyterhub.utils import make_ssl_context
from prometheus_client import REGISTRY, Counter
from traitlets import Integer

from ..errors import AgentFarmError
from ..logs import LogLine, server_of
from ..metrics import METRICS, RESTART_OUTCOMES
from ..traitlets import Seconds
from .past import Ending, Past, ending_of, past_of

if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner

    from .progress import Progress
    from .watch import LeaseWatch
else:
    from traitlets.config import LoggingConfigurable as Spawner  # JupyterHub's own refuses classes without a start

_METRIC = METRICS["agentfarm_server_restarts_total"]
RESTARTS = Counter(_METRIC.name, _METRIC.help, _METRIC.labels, registry=REGISTRY)
for _outcome in RESTART_OUTCOMES:
    RESTARTS.labels(_outcome)

_NODE_FAILURES = {"node_down", "node_restarted"}
#: A Hub that comes back answers only after it has checked its servers.
_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 4.0
_REQUEST_SECONDS = 30
_TOKEN_SECONDS = 60
#: The Hub is busy with this server, or with too many; it will not be for ever.
_LATER = {429, 503}


class NotRestarted(AgentFarmError):
    """The Hub did not take the new start."""

    reason = "not_restarted"


class RestartingSpawner(Spawner):
    """What a spawner remembers of servers that ended, and does about it; mixed in with JupyterHub's own spawner."""

    max_restarts = Integer(
        3,
        min=0,
        help="How often a server that asked for it (`restart: on-node-failure`) is started again after failures of "
        "nodes within `restart_window`. Smaller: what brings nodes down is stopped sooner. Larger: servers outlive a "
        "bad day of the machine room. 0: never.",
    ).tag(config=True)
    restart_window = Seconds(
        3600,
        help="Time in which no more than `max_restarts` restarts of a server are made. Smaller: more of them are. "
        "Seconds, or as '1h'.",
    ).tag(config=True)

    lease_id: str | None
    spawn_progress: Progress

    @property
    def watch(self) -> LeaseWatch:
        """The Hub's one watch."""
        raise NotImplementedError

    @property
    def called(self) -> str:
        """The server, for logs."""
        return str(self._log_name)

    def __init__(self, **kwargs: Any) -> None:
        self.past = Past()
        #: Whether the server came up, and nobody has asked for its end since.
        self.came_up = False
        super().__init__(**kwargs)

    def get_state(self) -> dict[str, Any]:
        """Return the state with what is remembered."""
        return dict(super().get_state()) | self.past.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what is remembered; a server that an earlier Hub left had come up, or is taken to have."""
        super().load_state(state)
        self.past = past_of(state)
        self.came_up = "lease" in state

    def clear_state(self) -> None:
        """Note how the server ended before it is forgotten; start it again if that is wanted."""
        super().clear_state()
        came_up, self.came_up = self.came_up, False
        if self.lease_id is None or not came_up or self.watch.status(self.lease_id) is None:
            return
        ending = ending_of(self.lease_id, self.watch.get(self.lease_id), time.time())
        if ending is not None:
            self._note(ending)

    def tell_past(self) -> None:
        """Begin a start's progress with how the last server ended."""
        if self.past.ending is not None and self.past.ending.due(time.time()):
            self.spawn_progress.add(1, self.past.ending.sentence())

    def _note(self, ending: Ending) -> None:
        now = time.time()
        wanted = (self.user_options or {}).get("restart") == "on-node-failure" and ending.end in _NODE_FAILURES
        allowed = len(self.past.restarts_within(now, self.restart_window)) < self.max_restarts
        if wanted and allowed:
            ending = replace(ending, then="it is started again")
            self.past = self.past.restarted(now, self.restart_window)
            self.watch.tasks.start(_restart(self), f"starting {self.called} again")
        elif wanted:
            RESTARTS.labels("limited").inc()
            ending = replace(ending, then=f"it is not started again: that was done {self.max_restarts} times lately")
            self.log.warning(LogLine("not started again", server=server_of(self), max_restarts=self.max_restarts))
        self.past = self.past.ended(ending)


async def _restart(spawner: RestartingSpawner) -> None:
    """Ask the Hub for the server, until it takes or refuses it."""
    try:
        await asyncio.wait_for(_asked_until_taken(spawner), _PATIENCE_SECONDS)
    except (NotRestarted, TimeoutError) as exc:
        RESTARTS.labels("failed").inc()
        why = exc.message if isinstance(exc, NotRestarted) else f"the Hub did not take it in {_PATIENCE_SECONDS:g} s"
        spawner.log.warning(LogLine("not started again", server=server_of(spawner), detail=why))
    else:
        RESTARTS.labels("started").inc()
        spawner.log.info(LogLine("started again after its node failed", server=server_of(spawner)))


async def _asked_until_taken(spawner: RestartingSpawner) -> None:
    pause = _PAUSE_SECONDS
    while True:
        if not spawner.pending:
            if spawner.name not in spawner.user.orm_spawners:
                raise NotRestarted("the server was deleted")
            if await _asked(spawner):
                return
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
        await asyncio.sleep(pause)


async def _asked(spawner: RestartingSpawner) -> bool:
    """Ask once; return whether the Hub took it. It may not answer yet, or be busy with this very server."""
    user = spawner.user
    scope = f"servers!server={user.name}/{spawner.name}"
    note = f"Restart of {spawner.called} after its node failed"
    try:
        token = user.new_api_token(note=note, expires_in=_TOKEN_SECONDS, scopes=[scope])
    except ValueError as exc:
        raise NotRestarted("its user may not start servers (any more)") from exc
    path = f"servers/{quote(spawner.name, safe='')}" if spawner.name else "server"
    url = f"{spawner.hub.api_url.rstrip('/')}/users/{quote(user.name, safe='')}/{path}"
    try:
        status, text = await _post(url, token, user.settings)
    except (aiohttp.ClientError, OSError):
        return False
    finally:
        _revoke(user, token)
    if status in {201, 202} or user.spawners[spawner.name].active:
        return True
    if status in _LATER or (status == 400 and "is pending" in text):
        return False
    raise NotRestarted(f"the Hub answered {status}: {text[:300]}")


async def _post(url: str, token: str, settings: Mapping[str, Any]) -> tuple[int, str]:
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    key, certificate, authorities = (settings.get(f"internal_ssl_{part}") for part in ("key", "cert", "ca"))
    tls = make_ssl_context(key, certificate, authorities) if key else None
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=tls or True)) as session,
        session.post(url, headers={"Authorization": f"token {token}"}, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.text()


def _revoke(user: Any, token: str) -> None:
    found = orm.APIToken.find(user.db, token)
    if found is not None:
        user.db.delete(found)
        user.db.commit()
