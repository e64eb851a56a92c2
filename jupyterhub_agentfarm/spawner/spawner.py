"""JupyterHub's calls, translated for the controller.

A start::

    place ─▶ lease in the Hub's database ─▶ wait in line ─▶ launch ─▶ the server itself answers ─▶ URL
      └─ refused: each node's reason                                     └─ it died: the last lines of its log

The spawner keeps no truth: the lease's id and epoch, the URL and the id of the server's API token are all that it
writes down, and none of them is a secret. Whether a server lives is read from the :class:`~.watch.LeaseWatch`, which
one Hub process has one of.
"""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from jupyterhub import orm
from jupyterhub.spawner import Spawner
from jupyterhub.utils import url_path_join
from traitlets import Dict, Integer, default

from ..errors import AgentFarmError, ConfigError, InvalidField, NotFoundError, ServerDied
from ..models import LaunchOrder, Lease, PlacementRequest, UserOptions
from ..traitlets import Seconds
from . import failure, form
from .options import Limits, check_options, form_to_json
from .progress import Progress
from .readiness import until_ready
from .watch import LeaseWatch, ended

_WATCH = "agentfarm_watch"
_SERVER_MODULE = "jupyterhub_agentfarm.server"
_LOG_LINES = 50
_LOG_SECONDS = 5.0
_CHECK_SECONDS = 5.0
#: The Hub's own limit comes after ours, so that ours says what happened.
_MARGIN_SECONDS = 60


class AgentFarmSpawner(Spawner):
    """Starts servers on the nodes of the farm."""

    boot_timeout = Seconds(
        120,
        help="How long a server may take from its launch on the node to its first answer; waiting in line does not "
        "count. Smaller: a broken node environment is noticed sooner. Larger: slow disks and cold caches are "
        "forgiven. Seconds.",
    ).tag(config=True)
    queue_timeout = Seconds(
        24 * 3600,
        help="How long a request may wait in line for GPUs. Smaller: users learn sooner that the farm is too small. "
        "Larger: they may leave the page open over night. Seconds. `start_timeout` is made of this and "
        "`boot_timeout` unless you set it.",
    ).tag(config=True)
    stop_grace = Seconds(
        10,
        help="How long a server may take to end by itself before it is killed. Smaller: its GPUs are free sooner. "
        "Larger: kernels can save more. Seconds.",
    ).tag(config=True)
    stop_wait = Seconds(
        60,
        help="How long the Hub waits for the controller to confirm a stop. After that the stop goes on in the "
        "background until it is done. Seconds.",
    ).tag(config=True)
    max_gpus = Integer(8, help="Most GPUs that one server may ask for.").tag(config=True)
    max_priority = Integer(
        0, help="Highest priority in the line that a user may ask for, -100 to 100; 0 lets users only step back."
    ).tag(config=True)
    allowed_labels = Dict(
        default_value=None,
        allow_none=True,
        help="Labels of nodes that users may ask for, and the values of each: `{'disk': ['nvme', 'hdd']}`. None: any.",
    ).tag(config=True)

    # ---- defaults that differ from JupyterHub's ----

    @default("cmd")
    def _cmd_default(self) -> list[str]:
        return ["{python}", "-m", _SERVER_MODULE]

    @default("env_keep")
    def _env_keep_default(self) -> list[str]:
        return []  # the Hub's PATH, proxies and locale mean nothing on a node

    @default("start_timeout")
    def _start_timeout_default(self) -> int:
        return int(self.queue_timeout + self.boot_timeout) + _MARGIN_SECONDS

    @default("http_timeout")
    def _http_timeout_default(self) -> int:
        return int(self.boot_timeout)  # a Hub that comes back may find its server in the middle of its boot

    @default("options_form")
    def _options_form_default(self) -> Callable[[Any], Awaitable[str]]:
        return form.render

    @default("apply_user_options")
    def _apply_user_options_default(self) -> Callable[[Any, dict[str, Any]], None]:
        return _apply_user_options

    @default("options_from_form")
    def _options_from_form_default(self) -> Callable[[dict[str, list[str]]], dict[str, Any]]:
        return _options_from_form

    # ---- state ----

    def __init__(self, **kwargs: Any) -> None:
        self.lease_id: str | None = None
        self.epoch = 0
        self.lease_url: str | None = None
        self.token_id: int | None = None
        #: Whether `start` is under way: then it is `start` that notices the server's end.
        self.starting = False
        self.spawn_progress = Progress()
        super().__init__(**kwargs)

    def get_state(self) -> dict[str, Any]:
        """Return what a later Hub needs to find the server; nothing of it is a secret."""
        state = dict(super().get_state())
        if self.lease_id is not None:
            state |= {"lease": self.lease_id, "epoch": self.epoch, "url": self.lease_url, "token_id": self.token_id}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the server that an earlier Hub, or an earlier spawner object, started."""
        super().load_state(state)
        if "lease" in state:
            self.lease_id, self.epoch = str(state["lease"]), int(state["epoch"])
            self.lease_url, self.token_id = state["url"], state["token_id"]
            self.watch.attach(self.lease_id, self)

    def clear_state(self) -> None:
        """Forget the server. JupyterHub calls this after every stop and before every start."""
        self._revoke_token()
        super().clear_state()
        if self.lease_id is not None:
            self.watch.detach(self.lease_id)
        self.lease_id, self.epoch, self.lease_url, self.token_id = None, 0, None, None
        self.spawn_progress = Progress()

    def _revoke_token(self) -> None:
        """Delete the server's API token after a Hub restart: JupyterHub does so only with the token at hand."""
        if self.token_id is None or self.api_token:
            return
        token = self.user.db.get(orm.APIToken, self.token_id)
        note = f"Server at {url_path_join(self.user.base_url, self.name, '/')}"  # as `User.spawn` writes it
        if token is not None and token.user_id == self.user.id and token.note == note:
            self.user.db.delete(token)
            self.user.db.commit()

    @property
    def watch(self) -> LeaseWatch:
        """The Hub's one watch; it lives in the Hub's settings."""
        settings = self.user.settings
        if _WATCH not in settings:
            settings[_WATCH] = LeaseWatch(config=self.config, log=self.log, db=self.user.db)
            settings[_WATCH].open()
        watch: LeaseWatch = settings[_WATCH]
        return watch

    # ---- start ----

    def limits(self) -> Limits:
        """Return what this user may ask for."""
        return Limits(self.max_gpus, self.max_priority, self.allowed_labels)

    async def create_certs(self) -> dict[str, str]:
        """Refuse internal_ssl: a certificate names its node, which is not known before the placement."""
        message = "AgentFarmSpawner has no internal_ssl: set c.JupyterHub.internal_ssl = False"
        raise failure.explain(ConfigError(message))

    async def start(self) -> str:
        """Return the server's URL once the server itself answers there."""
        self.starting = True
        try:
            lease = await self._granted(await self._placed())
            return await self._booted(lease)
        except AgentFarmError as exc:
            error = failure.explain(exc)
            self.log.warning("%s's server did not start: %s", self._log_name, exc.message)
            self.spawn_progress.add(100, exc.message, failure.log_of(exc))
            self._abandon()
            raise error from exc
        except BaseException:
            self._abandon()
            raise
        finally:
            self.starting = False
            self.spawn_progress.close()

    def _abandon(self) -> None:
        """Give the lease back without waiting: a cancelled start must end at once."""
        if self.lease_id is not None:
            self.watch.release(self.lease_id, 0)

    async def _placed(self) -> Lease:
        """Ask for a lease and write it down before anything else happens."""
        request = self._request(check_options(self.user_options or {}, self.limits()))
        self.spawn_progress.add(5, "Looking for a node")
        lease = await self.watch.place(request)
        self.lease_id, self.epoch = lease.id, lease.epoch
        token = orm.APIToken.find(self.user.db, self.api_token)
        self.token_id = token.id if token is not None else None
        self._commit()
        self.watch.attach(lease.id, self)
        return self.watch.get(lease.id) or lease

    def _request(self, options: UserOptions) -> PlacementRequest:
        return PlacementRequest(
            owner=self.user.name,
            server_name=self.name,
            options=options,
            cpus=float(self.cpu_guarantee or 0),
            memory_bytes=int(self.mem_guarantee or 0),
            groups=tuple(sorted(group.name for group in self.user.groups)),
        )

    def _commit(self) -> None:
        """Write the state to the Hub's database now: a Hub that is killed in the middle finds its server again."""
        self.orm_spawner.state = self.get_state()
        self.user.db.commit()

    async def _granted(self, lease: Lease) -> Lease:
        """Wait in line."""
        try:
            async with asyncio.timeout(self.queue_timeout):
                while lease.state == "waiting":
                    place = f"position {lease.position}" if lease.position is not None else "waiting"
                    self.spawn_progress.add(10, f"In line, {place}: {lease.detail or 'nothing is free now'}")
                    lease = await self.watch.until(lease.id, functools.partial(operator.ne, lease))
        except TimeoutError as exc:
            message = f"Nothing became free within {self.queue_timeout:g} seconds: ask for less, or try again later"
            raise failure.start_failure(message, "queue_timeout", 503) from exc
        if not lease.alive:
            raise NotFoundError(f"The request was taken out of the line: {lease.detail or 'an admin ended it'}")
        chosen = lease.why.sentence() if lease.why is not None else f"{lease.node} was chosen"
        self.spawn_progress.add(30, f"Node {chosen}" + (f"; GPUs: {', '.join(lease.gpus)}" if lease.gpus else ""))
        return lease

    async def _booted(self, lease: Lease) -> str:
        """Launch the server and wait until it answers."""
        try:
            async with asyncio.timeout(self.boot_timeout):
                return await self._launched(lease)
        except TimeoutError as exc:
            message = f"The server on {lease.node} did not answer within {self.boot_timeout:g} seconds"
            log_tail = await self._log_tail(lease.id)
            self.spawn_progress.add(100, message, log_tail)
            raise failure.start_failure(message, "boot_timeout", 504, log_tail) from exc

    async def _launched(self, lease: Lease) -> str:
        order = self._order()
        lease = await self.watch.patiently(lambda: self.watch.client.launch(lease.id, order))
        self.watch.remember(lease)
        if lease.url is None:
            raise ServerDied(f"The server on {lease.node} ended at once", await self._log_tail(lease.id))
        self.epoch, self.lease_url = lease.epoch, lease.url
        self._commit()
        self.spawn_progress.add(60, f"Started on {lease.node}; waiting for its first answer")
        url = url_path_join(lease.url, self.server.base_url)
        await self._answered(lease, url_path_join(url, "api"), order.socket == "inherit")
        self.spawn_progress.add(95, "The server answers")
        return str(url)

    def _order(self) -> LaunchOrder:
        """Return what to start. noded sets JUPYTERHUB_SERVICE_URL: only it knows the port."""
        command = [*self.cmd, *self.get_args()]
        environment = {name: str(value) for name, value in self.get_env().items() if value is not None}
        environment.pop("JUPYTERHUB_SERVICE_URL", None)
        return LaunchOrder(
            command=tuple(command),
            environment=environment,
            base_url=self.server.base_url,
            socket="inherit" if _SERVER_MODULE in command else "port",
            cwd=self.format_string(self.notebook_dir) if self.notebook_dir else None,
        )

    async def _answered(self, lease: Lease, api_url: str, identified: bool) -> None:
        """Return when the server answers; raise when it ends before that."""
        ready = asyncio.create_task(until_ready(api_url, lease.id if identified else None))
        death = asyncio.create_task(self.watch.until(lease.id, ended))
        try:
            await asyncio.wait({ready, death}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                return ready.result()
            end = death.result()
            sentence = end.server.exit.sentence() if end.server and end.server.exit else end.detail or "it was stopped"
            raise ServerDied(f"The server on {lease.node} ended: {sentence}", await self._log_tail(lease.id))
        finally:
            for task in (ready, death):
                task.cancel()
            await asyncio.gather(ready, death, return_exceptions=True)

    async def _log_tail(self, lease_id: str) -> str:
        try:
            return await asyncio.wait_for(self.watch.client.log(lease_id, _LOG_LINES), _LOG_SECONDS)
        except (AgentFarmError, TimeoutError) as exc:
            self.log.warning("the log of lease %s could not be read: %s", lease_id, exc)
            return ""

    # ---- life ----

    async def poll(self) -> int | None:
        """Return the exit status, or None: it runs, starts, or cannot be asked. Reads a cache; never raises."""
        if self.starting:
            return None
        if self.lease_id is None:
            return 0
        if self._check_pending:
            await self.watch.heard_of(self.lease_id, _CHECK_SECONDS)
        lease = self.watch.get(self.lease_id)
        if lease is not None and lease.state in {"waiting", "granted"}:
            self._abandon()  # the Hub was killed before the launch, and the environment is lost with it
            return 1
        status = self.watch.status(self.lease_id)
        if status is not None and lease is not None and lease.state == "running":
            self._abandon()
        return status

    async def stop(self, now: bool = False) -> None:
        """Stop the server and give its GPUs back; what cannot be done now goes on in the background."""
        if self.lease_id is None:
            return
        release = self.watch.release(self.lease_id, 0 if now else self.stop_grace)
        await asyncio.wait({release}, timeout=self.stop_wait)

    async def get_url(self) -> str:
        """Return where the server is, for a Hub that was killed before it had written that down."""
        if self.lease_id is not None and self.lease_url is None:
            await self.watch.heard_of(self.lease_id, self.boot_timeout)
        lease = self.watch.get(self.lease_id) if self.lease_id is not None else None
        url = (lease.url if lease is not None else None) or self.lease_url
        return url_path_join(url, self.server.base_url) if url else str(self.server.url)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what happened in this start, from its beginning, and what happens."""
        async for event in self.spawn_progress.follow():
            yield event


def _apply_user_options(spawner: AgentFarmSpawner, user_options: dict[str, Any]) -> None:
    """Refuse what the site does not allow, whichever way it came."""
    try:
        check_options(user_options, spawner.limits())
    except InvalidField as exc:
        raise failure.explain(exc) from exc


def _options_from_form(form_data: dict[str, list[str]]) -> dict[str, Any]:
    try:
        return form_to_json(form_data)
    except InvalidField as exc:
        raise failure.explain(exc) from exc
