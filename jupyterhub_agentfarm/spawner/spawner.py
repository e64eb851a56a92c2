"""JupyterHub's calls, translated for the controller.

A start::

    place ─▶ lease in the Hub's database ─▶ wait in line ─▶ launch ─▶ the server itself answers ─▶ URL
      └─ refused: each node's reason                                     └─ it died: the last lines of its log

The spawner keeps no truth: the lease's id and epoch and the server's URL are all that it writes down, and none of them
is a secret. Whether a server lives is read from the :class:`~.watch.LeaseWatch`, which one Hub process has one of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from jupyterhub.spawner import Spawner
from jupyterhub.utils import url_path_join
from traitlets import Enum, Integer, Set, Unicode, default

from ..errors import AgentFarmError
from ..logs import LogLine, server_of
from ..models import LaunchOrder, Lease
from ..traitlets import Seconds
from . import failure, form
from .certified import CertifiedSpawner
from .elsewhere import finished_somewhere
from .hub_workarounds import HubWorkarounds
from .offering import OfferingSpawner
from .options import apply_options, options_from_form, placement_request
from .progress import Progress
from .restarting import RestartingSpawner
from .starting import SERVER_MODULE, Start
from .watch import LeaseWatch

_WATCH = "agentfarm_watch"
_CHECK_SECONDS = 5.0
#: The Hub's own limit comes after ours, so that ours says what happened.
_MARGIN_SECONDS = 60


class AgentFarmSpawner(CertifiedSpawner, HubWorkarounds, RestartingSpawner, OfferingSpawner, Spawner):
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
    check_timeout = Seconds(
        300,
        help="How long a Hub that was restarted waits for a server to answer that runs as far as the controller knows, "
        "as when its node is cut off. Until then the server is `pending: check`; after that it is stopped. A "
        "node that is given up (`Inventory.down_after`) ends the wait. Smaller: the user can start anew sooner. "
        "Larger: longer cuts of the network cost nothing. Seconds.",
    ).tag(config=True)
    max_tries = Integer(
        3,
        min=1,
        help="On how many nodes a start is tried when nodes are at fault, as without an interpreter or disk space. "
        "Smaller: the user learns of a broken node environment sooner. Larger: more broken nodes cost nobody a start.",
    ).tag(config=True)
    process_limit = Integer(
        None,
        allow_none=True,
        min=0,
        help="Most processes and threads of a server, its kernels and terminals included; `mem_limit` and `cpu_limit` "
        "are the most memory and cores. Smaller: a loop that forks does less harm. Larger: JupyterLab with a kernel "
        "has about 50, and every numerical library starts a thread for each core. None: no limit. A node that cannot "
        "enforce a limit refuses the server; `agentfarm doctor` says what each enforces by.",
    ).tag(config=True)
    projects = Set(
        Unicode(),
        help="Hub groups that are projects; a `*` stands for any letters, as in `{'quant', 'project-*'}`. Servers of "
        "their members have the project's directory on the node, as `~/projects/NAME` and in `$AGENTFARM_PROJECTS`, "
        "where `isolation.projects` of the node says where projects are. A change of members counts from each "
        "server's next start.",
    ).tag(config=True)

    shortcuts = Set(
        Enum(("iri", "yarn", "extensions", "npm")),
        default_value={"iri", "yarn", "extensions", "npm"},
        help="What servers leave out when they start. `iri` saves one to three seconds of a cold start, and formats of "
        "IRIs are not checked in JSON schemas; `yarn` saves half a second where Node.js is installed, and costs "
        "nothing; `extensions` has JupyterLab's extension manager prepare itself for PyPI when it is first used; `npm` "
        "saves a third of a second of a processor where npm is installed, and language servers below a prefix of npm's "
        "global configuration are not found.",
    ).tag(config=True)

    # ---- defaults that differ from JupyterHub's ----

    @default("cmd")
    def _cmd_default(self) -> list[str]:
        return ["{python}", "-m", SERVER_MODULE]

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
        return apply_options

    @default("options_from_form")
    def _options_from_form_default(self) -> Callable[[dict[str, list[str]]], dict[str, Any]]:
        return options_from_form

    # ---- state ----

    def __init__(self, **kwargs: Any) -> None:
        self.lease_id: str | None = None
        self.epoch = 0
        self.lease_url: str | None = None
        #: Whether the server's program is another than the farm's, which does not name its lease.
        self.nameless = False
        #: Whether `start` is under way: then it is `start` that notices the server's end.
        self.starting = False
        self.spawn_progress = Progress()
        self._noticing: asyncio.Task[int | None] | None = None
        super().__init__(**kwargs)

    def get_state(self) -> dict[str, Any]:
        """Return what a later Hub needs to find the server; nothing of it is a secret."""
        state = dict(super().get_state())
        if self.lease_id is not None:
            state |= {"lease": self.lease_id, "epoch": self.epoch, "url": self.lease_url}
            state |= {"nameless": True} if self.nameless else {}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up the server that an earlier Hub, or an earlier spawner object, started."""
        super().load_state(state)
        if "lease" in state:
            self.lease_id, self.epoch = str(state["lease"]), int(state["epoch"])
            self.lease_url = state["url"]
            self.nameless = bool(state.get("nameless"))
            self.watch.attach(self.lease_id, self)

    def clear_state(self) -> None:
        """Forget the server. JupyterHub calls this after every stop and before every start."""
        self.revoke_token()
        super().clear_state()
        if self.lease_id is not None:
            self.watch.detach(self.lease_id)
        self.lease_id, self.epoch, self.lease_url = None, 0, None
        self.nameless = False
        self.spawn_progress = Progress()

    @property
    def watch(self) -> LeaseWatch:
        """The Hub's one watch; it lives in the Hub's settings."""
        settings = self.user.settings
        if _WATCH not in settings:
            settings[_WATCH] = LeaseWatch(config=self.config, log=self.log, db=self.user.db, settings=settings)
            settings[_WATCH].open()
        watch: LeaseWatch = settings[_WATCH]
        return watch

    # ---- start ----

    async def start(self) -> str:
        """Return the server's URL once the server itself answers there."""
        self.starting = True
        try:
            with ExitStack() as undo:
                undo.callback(self._abandon)
                url = await finished_somewhere(self, await self.placed())
                undo.pop_all()
        except AgentFarmError as exc:
            self.log.warning(LogLine("not started", server=server_of(self), detail=exc.message))
            self.spawn_progress.add(100, exc.message, failure.log_of(exc))
            raise failure.explain(exc) from exc
        except asyncio.CancelledError:
            self.watch.tasks.start(self.end_phantom(self.lease_id), f"looking after {self._log_name}'s cancelled start")
            raise
        else:
            self.came_up = True
            return url
        finally:
            self.starting = False
            self.spawn_progress.close()

    def _abandon(self) -> None:
        """Give the lease back without waiting: a cancelled start must end at once."""
        if self.lease_id is not None:
            self.watch.release(self.lease_id, 0)

    async def placed(self, avoid: tuple[str, ...] = ()) -> Lease:
        """Ask for a lease, on another node than those to avoid, and write it down before anything else happens."""
        request = placement_request(self, avoid)
        self.tell_past()
        self.spawn_progress.add(5, "Looking for a node")
        lease = await self.watch.place(request)
        self.lease_id, self.epoch = lease.id, lease.epoch
        self.keep_state()
        self.watch.attach(lease.id, self)
        return self.watch.get(lease.id) or lease

    def note_launch(self, lease: Lease, order: LaunchOrder) -> None:
        """Write down where the server is; it was launched a moment ago, as `order` says."""
        self.nameless = order.socket != "inherit"
        self.epoch, self.lease_url = lease.epoch, lease.url
        self.keep_state()

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
        if status is None and self._check_pending:
            status = await self.until_it_answers(self.lease_id, self.check_timeout)
            lease = self.watch.get(self.lease_id) if self.lease_id is not None else None
        if status is not None and lease is not None and lease.state == "running":
            self._abandon()
        return status

    async def poll_and_notify(self) -> int | None:
        """Have the Hub notice the server's end; who asks while it does so waits until that is done.

        Otherwise a server that is deleted with its name at that moment is neither running nor stopped to the Hub.
        """
        if self._noticing is None or self._noticing.done():
            self._noticing = self.watch.tasks.start(super().poll_and_notify(), f"noticing the end of {self._log_name}")
        return await asyncio.shield(self._noticing)

    async def stop(self, now: bool = False) -> None:
        """Stop the server and give its GPUs back; what cannot be done now goes on in the background."""
        if self.lease_id is None:
            return
        self.came_up = False
        release = self.watch.release(self.lease_id, 0 if now else self.stop_grace)
        await asyncio.wait({release}, timeout=self.stop_wait)

    async def get_url(self) -> str:
        """Return where the server is, for a Hub that was killed before it had written that down."""
        if self.lease_id is not None and self.lease_url is None:
            await self.watch.heard_of(self.lease_id, self.boot_timeout)
        url = self.known_url(self.lease_id) if self.lease_id is not None else None
        if url is None:
            return str(self.server.url)
        self.take_scheme(url)
        return str(url_path_join(url, self.server.base_url))

    def known_url(self, lease_id: str) -> str | None:
        """Return where the lease's server is, without its base URL; None when that is not known."""
        lease = self.watch.get(lease_id)
        return (lease.url if lease is not None else None) or self.lease_url

    async def first_of_answer_and_end(self, lease_id: str, api_url: str) -> Lease | None:
        """Return None once the server answers as itself, or its lease once that ended."""
        return await Start(self).first_of_answer_and_end(lease_id, api_url, identified=not self.nameless)

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what happened in this start, from its beginning, and what happens."""
        async for event in self.spawn_progress.follow():
            yield event
