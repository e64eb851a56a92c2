"""Inventory: every node of the farm, from where it is declared to what admins do to it.

Nodes come from the configuration and from the database, and each gets a link; :mod:`.states` keeps what the links
tell. Cordon and drain are marks beside a node's state: they are an admin's, are kept in the database and outlast
restarts of everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

from traitlets import Dict, Instance, List, Unicode, default, validate
from traitlets.config import LoggingConfigurable

from jupyterhub_agentfarm.errors import ConfigError, ConflictError, InvalidField
from jupyterhub_agentfarm.isolation import Isolation
from jupyterhub_agentfarm.logs import LogLine
from jupyterhub_agentfarm.models import Mark, Node, NodeSpec
from jupyterhub_agentfarm.records import from_json
from jupyterhub_agentfarm.traitlets import Seconds, TraitError
from jupyterhub_agentfarm.transport import NodeLink, SSHPool

from .database import Database
from .declared import check_distinct, check_spec, from_hosts, parse_nodes
from .states import NodeStates
from .store import NodeStore


class Inventory(NodeStates, LoggingConfigurable):
    """The nodes; also the listener of their links."""

    nodes = List(
        Dict(),
        help="""The nodes, one dictionary each. `name` and `host` are required; `port`, `user`, `role`, `labels`,
        `address`, `host_key`, `ssh_keyfile`, `python`, `server_python`, `state_dir`, `simulated_gpus`, `port_range`,
        `noded_args` and `isolation` are as in `models.NodeSpec`. Example:
        `[{"name": "gpu01", "host": "10.0.0.11", "host_key": "ssh-ed25519 AAAA…", "labels": {"room": "b"}}]`.
        Nodes can also be added while the farm runs, with `agentfarm nodes add`.""",
    ).tag(config=True)
    remote_hosts = List(
        Unicode(),
        help="""Hosts that become nodes with all defaults, named after the host. It has the form, and without a value
        of its own takes the value, of `SSHSpawner.remote_hosts`, so that a configuration of sshspawner works as it is.
        Their host keys must be in `SSHPool.known_hosts`.""",
    ).tag(config=True)
    ssh_keyfile = Unicode(
        "",
        help="""Private key to log in to the nodes of `remote_hosts` with. Empty: `SSHPool.client_keys`. It is one key
        of the farm, not one for each user: a path with `{username}` is refused.""",
    ).tag(config=True)
    down_after = Seconds(
        60.0,
        help="""Time after which an unreachable node counts as down (in seconds); its servers are then given up. Smaller
        frees users sooner from a dead node; larger bears a longer cut of the network without stopping anything.""",
    ).tag(config=True)
    stale_after = Seconds(
        10.0,
        help="""Age from which a node's last report is too old to place a server by (in seconds). Smaller places by
        fresher figures; it must be well above the interval of reports, which is 2 s.""",
    ).tag(config=True)
    isolation = Dict(
        help="""How servers are kept apart on nodes that do not say so themselves: `account`, `create_accounts`,
        `sandbox`, `image`, `engine`, `projects` and `project_group`, as in `isolation.Isolation`. Empty: all servers of
        a node run as noded's account, without a sandbox or projects. Example:
        `{"account": "{username}", "sandbox": "bubblewrap", "projects": "/srv/projects"}`.""",
    ).tag(config=True)
    pool = Instance(SSHPool, help="Opens the connections.")

    def __init__(self, clock: Callable[[], float] = time.time, **kwargs: Any) -> None:
        super().__init__(clock=clock, **kwargs)
        self._changes = asyncio.Lock()
        self._store: NodeStore | None = None

    # ---- configuration ------------------------------------------------------------------------------------------

    @default("pool")
    def _default_pool(self) -> SSHPool:
        return SSHPool(parent=self)

    @default("remote_hosts")
    def _hosts_of_sshspawner(self) -> list[str]:
        return list(self.config.get("SSHSpawner", {}).get("remote_hosts", []))

    @validate("isolation")
    def _check_isolation(self, proposal: Any) -> Any:
        try:
            from_json(Isolation, dict(proposal["value"]), "Inventory.isolation")
        except InvalidField as exc:
            raise TraitError(str(exc)) from exc
        return proposal["value"]

    def isolation_of(self, spec: NodeSpec) -> Isolation:
        """Return how the servers of a node are kept apart."""
        return spec.isolation or from_json(Isolation, dict(self.isolation), "Inventory.isolation")

    @validate("nodes")
    def _check_nodes(self, proposal: Any) -> Any:
        try:
            parse_nodes(proposal["value"])
        except InvalidField as exc:
            raise TraitError(str(exc)) from exc
        return proposal["value"]

    @validate("ssh_keyfile")
    def _check_keyfile(self, proposal: Any) -> Any:
        if "{" in proposal["value"]:
            raise TraitError(f"Inventory.ssh_keyfile must be one private key for all users, not {proposal['value']!r}")
        return proposal["value"]

    def _declared(self) -> tuple[NodeSpec, ...]:
        try:
            specs = parse_nodes(self.nodes)
            return specs + from_hosts(self.remote_hosts, self.ssh_keyfile or None, [spec.name for spec in specs])
        except InvalidField as exc:
            raise ConfigError(str(exc)) from exc

    # ---- reading ------------------------------------------------------------------------------------------------

    def is_fresh(self, node: Node, now: float) -> bool:
        """Return whether a node's last report is young enough to place a server by.

        Parameters
        ----------
        node
            The node.
        now
            The controller's clock.
        """
        if node.telemetry is None or node.reported_at is None:
            return False
        return bool(now - node.reported_at <= self.stale_after)

    # ---- life ---------------------------------------------------------------------------------------------------

    async def open(self, database: Database) -> None:
        """Load what is stored and begin to connect to every node.

        Raises
        ------
        ConfigError
            A node of the configuration cannot be used.
        InvalidField
            A stored node has a form that this version does not know.
        """
        self._store = NodeStore(database, self._clock)
        stored = await self._store.load()
        for spec in self._declared():
            self._begin(spec, "config", stored.cordons.get(spec.name), stored.drains.get(spec.name))
        for spec in stored.specs:
            if spec.name in self._entries:
                self.log.warning(LogLine("added at run time and in the config: the config counts", node=spec.name))
                continue
            self._begin(spec, "added", stored.cordons.get(spec.name), stored.drains.get(spec.name))

    async def aclose(self) -> None:
        """Close every link and end every watch; may be called again."""
        await self._close_links()
        await self.pool.aclose()
        self._close_watches()

    def _begin(
        self, spec: NodeSpec, origin: Literal["config", "added"], cordon: Mark | None = None, drain: Mark | None = None
    ) -> Node:
        node = Node(spec, "unreachable", "not connected yet", self._clock(), origin, cordon, drain)
        self._enter(node, NodeLink(spec, self.pool, self))
        return node

    # ---- changes by admins --------------------------------------------------------------------------------------

    async def add(self, spec: NodeSpec, by: str) -> Node:
        """Add a node and begin to connect to it.

        Parameters
        ----------
        spec
            The node.
        by
            Who adds it.

        Raises
        ------
        ConflictError
            There is one of this name, or the machine is in the farm under another name.
        InvalidField
            Its host key is none.
        """
        check_spec(spec)
        async with self._changes:
            check_distinct(spec, (node.spec for node in self.all_nodes()))
            await self._open_store().add(spec, by)
            self.log.info(LogLine("added", node=spec.name, by=by))
            return self._begin(spec, "added")

    async def remove(self, name: str) -> None:
        """Remove a node that was added at run time; that it has no leases is the caller's to know.

        Raises
        ------
        ConflictError
            It is declared in the configuration.
        NotFoundError
            There is none of this name.
        """
        async with self._changes:
            if self.node(name).origin == "config":
                raise ConflictError(
                    f"node {name} is declared in the configuration: remove it from c.Inventory.nodes "
                    "(or remote_hosts) and restart the controller, or cordon it"
                )
            await self._open_store().remove(name)
            await self._leave(name)

    async def cordon(self, name: str, reason: str, by: str) -> Node:
        """Let no new server onto a node; those there stay.

        Raises
        ------
        NotFoundError
            There is no node of this name.
        """
        mark = Mark(reason, self._clock(), by)
        async with self._changes:
            self.node(name)
            await self._open_store().mark(name, "cordon", mark)
            return self._change(name, cordon=mark)

    async def drain(self, name: str, reason: str, by: str, deadline_at: float | None = None) -> Node:
        """Let no new server onto a node and empty it; stopping what is there is the caller's.

        Parameters
        ----------
        name, reason, by
            The node, why, and who.
        deadline_at
            When what is still there is stopped, in seconds since the epoch; None: it may stay.

        Raises
        ------
        NotFoundError
            There is no node of this name.
        """
        mark = Mark(reason, self._clock(), by, deadline_at)
        async with self._changes:
            self.node(name)
            await self._open_store().mark(name, "drain", mark)
            return self._change(name, drain=mark)

    async def keep(self, name: str, mark: Mark) -> Node:
        """Drain a node for the servers of one owner, whom `mark` names.

        Raises
        ------
        ConflictError
            It is cordoned or drained already, by an admin or for another owner.
        NotFoundError
            There is no node of this name.
        """
        async with self._changes:
            node = self.node(name)
            other = node.cordon or node.drain
            if other is not None and other.kept_for != mark.kept_for:
                why = f": {other.reason}" if other.reason else ""
                raise ConflictError(f"node {name} was {node.status} by {other.by}{why}")
            await self._open_store().mark(name, "drain", mark)
            return self._change(name, drain=mark)

    async def give_back(self, name: str, owner: str) -> Node:
        """End a drain for the servers of `owner`; every other mark stays.

        Raises
        ------
        NotFoundError
            There is no node of this name.
        """
        async with self._changes:
            node = self.node(name)
            if node.drain is None or node.drain.kept_for != owner:
                return node
            await self._open_store().unmark(name, ("drain",))
            return self._change(name, drain=None)

    async def uncordon(self, name: str) -> Node:
        """End a cordon and a drain; a node without either stays as it is.

        Raises
        ------
        NotFoundError
            There is no node of this name.
        """
        async with self._changes:
            self.node(name)
            await self._open_store().unmark(name)
            return self._change(name, cordon=None, drain=None)

    def _open_store(self) -> NodeStore:
        if self._store is None:
            raise ConflictError("the inventory is not open yet")
        return self._store
