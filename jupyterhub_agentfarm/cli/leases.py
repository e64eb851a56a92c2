"""``agentfarm leases`` and ``agentfarm queue``: who holds what, why there, and who waits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Unicode

from ..errors import ConflictError, NotFoundError
from ..terminal.quantities import UNKNOWN, age, size
from .command import Command

if TYPE_CHECKING:
    from ..models import Candidate, Lease

_COLUMNS = ("ID", "OWNER", "SERVER", "STATE", "NODE", "GPUS", "SINCE", "DETAIL")
_QUEUE_COLUMNS = ("POSITION", "ID", "OWNER", "SERVER", "WANTS", "SINCE", "DETAIL")
_ID_LENGTH = 8


class Leases(Command):
    """List the leases."""

    command = "agentfarm leases"
    description = "List who holds which GPUs on which node; with --why, how one of them was placed."
    why = Unicode("", help="Show each node's scores or refusal for the lease with this id (its start is enough).").tag(
        config=True
    )
    all = Bool(False, help="Released leases too, the latest 200.").tag(config=True)
    aliases = {**Command.aliases, "why": "Leases.why"}
    flags = {**Command.flags, "all": ({"Leases": {"all": True}}, "Released leases too, the latest 200.")}

    async def run(self) -> None:
        """Ask the controller and write the list, or the explanation."""
        async with self.farm() as farm:
            leases = await farm.leases(all=self.all or bool(self.why))
        if self.why:
            self._explain(find_lease(leases, self.why))
        elif self.json:
            self.output.json({"leases": leases})
        else:
            now = time.time()
            self.output.table(_COLUMNS, [_row(lease, now) for lease in leases], "Nobody holds anything.")

    def _explain(self, lease: Lease) -> None:
        """Write why the lease went where it went."""
        if self.json:
            self.output.json({"lease": lease.id, "state": lease.state, "node": lease.node, "why": lease.why})
        elif lease.why is None:
            self.output.note(lease.detail or "Nothing was decided about this request yet.")
        else:
            self.output.line(lease.why.sentence())
            scorers = sorted({name for candidate in lease.why.candidates for name in candidate.scores})
            columns = ("NODE", "SCORE", *(name.upper() for name in scorers), "REFUSED")
            rows = [_candidate_row(candidate, scorers) for candidate in lease.why.candidates]
            self.output.table(columns, rows, "The farm had no nodes.")


class Queue(Command):
    """List the requests that wait."""

    command = "agentfarm queue"
    description = "List the requests that wait for something to become free, the next one first; `cancel` ends one."
    subcommands = {"cancel": (f"{__name__}.Cancel", "Take a request out of the line")}

    def check_positionals(self) -> None:
        """Without a subcommand the line is listed."""
        if self.extra_args:
            super().check_positionals()

    def start(self) -> None:
        """Start the subcommand, or list the line."""
        if self.subapp is not None:
            self.subapp.start()
        else:
            super().start()

    async def run(self) -> None:
        """Ask the controller and write the line."""
        async with self.farm() as farm:
            queue = await farm.queue()
        if self.json:
            self.output.json({"queue": queue})
            return
        now = time.time()
        self.output.table(_QUEUE_COLUMNS, [_queue_row(entry, now) for entry in queue], "Nobody waits.")


class Cancel(Command):
    """Take a request out of the line."""

    command = "agentfarm queue cancel"
    description = (
        "Take a request that waits out of the line; those behind it move up. Servers that run are not touched."
    )
    positionals = ("LEASE",)

    async def run(self) -> None:
        """Find the request, and withdraw it."""
        async with self.farm() as farm:
            lease = find_lease(await farm.leases(), self.extra_args[0])
            if lease.state != "waiting":
                raise ConflictError(f"lease {lease.id[:_ID_LENGTH]} does not wait, it is {lease.state}")
            ended = await farm.release(lease.id, 0)
        if self.json:
            self.output.json({"lease": ended.id, "state": ended.state, "detail": ended.detail})
        else:
            self.output.line(f"The request of {ended.owner} left the line: {ended.detail}.")


def find_lease(leases: Sequence[Lease], start: str) -> Lease:
    """Return the one lease whose id starts with `start`.

    Raises
    ------
    NotFoundError, ConflictError
        There is none, or more than one.
    """
    found = [lease for lease in leases if lease.id.startswith(start)]
    if not found:
        raise NotFoundError(f"there is no lease {start!r}: `agentfarm leases --all` lists them")
    if len(found) > 1:
        raise ConflictError(f"{len(found)} leases start with {start!r}: give more of the id")
    return found[0]


def wants(options: Mapping[str, Any]) -> str:
    """Return what a request asks for, in a few words."""
    gpus = int(options.get("gpus") or 0)
    parts = [f"{gpus} GPU{'' if gpus == 1 else 's'}"]
    parts += [f"on {options['node']}"] if options.get("node") else []
    parts += [str(options["gpu_model"])] if options.get("gpu_model") else []
    parts += [f"{options['cpus']:g} cores"] if options.get("cpus") else []
    parts += [size(options["memory_bytes"])] if options.get("memory_bytes") else []
    parts += [f"kernel {options['kernel']}"] if options.get("kernel") else []
    parts += [f"{key}={value}" for key, value in sorted((options.get("labels") or {}).items())]
    return ", ".join(parts)


def _row(lease: Lease, now: float) -> tuple[object, ...]:
    waiting = f"position {lease.position}: " if lease.position else ""
    # What was granted has its reasons in --why.
    detail = "" if lease.state in {"granted", "running"} else waiting + lease.detail
    return (
        lease.id[:_ID_LENGTH],
        lease.owner,
        lease.server_name or UNKNOWN,
        lease.state,
        lease.node or UNKNOWN,
        ", ".join(lease.gpus) or UNKNOWN,
        age(lease.granted_at or lease.created_at, now),
        detail,
    )


def _candidate_row(candidate: Candidate, scorers: Sequence[str]) -> tuple[object, ...]:
    score = UNKNOWN if candidate.score is None else f"{candidate.score:.2f}"
    parts = [f"{candidate.scores[name]:.2f}" if name in candidate.scores else UNKNOWN for name in scorers]
    refused = f"{candidate.refusal}: {candidate.detail}" if candidate.refusal else ""
    return (candidate.node, score, *parts, refused)


def _queue_row(entry: Mapping[str, Any], now: float) -> tuple[object, ...]:
    return (
        entry["position"],
        (entry["lease"] or UNKNOWN)[:_ID_LENGTH],
        entry["owner"] or "somebody",
        entry["server_name"] or UNKNOWN,
        wants(entry["options"]),
        age(entry["created_at"], now),
        entry["detail"],
    )
