"""What the nodes have room for, by what they report: a look ahead, so that what can be served goes before what cannot.

The controller decides, by everything it knows. Here it is only guessed whether it would grant a request now: eligible
nodes with the labels and the kernel asked for, and there the GPUs that no lease holds, and the cores and memory that
are neither promised to a lease nor in use. What a request in the line waits for is kept for it, so it is not free: the
cores, the memory, or the matching GPUs of every node that could serve it later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...models import UserOptions
from ...records import from_json

View = Mapping[str, Any]


@dataclass
class _Free:
    """What of a node is free."""

    node: View
    cpus: float
    memory_bytes: float
    gpus: list[View] = field(default_factory=list)

    def matching(self, options: UserOptions) -> list[View]:
        wanted = options.gpu_model.casefold()
        return [
            gpu
            for gpu in self.gpus
            if wanted in gpu["name"].casefold() and (gpu["memory_total_bytes"] or 0) >= options.gpu_memory_bytes
        ]

    def could(self, options: UserOptions, labels: Mapping[str, str]) -> bool:
        """Whether the node is one of those asked for, whatever is free there."""
        mine = self.node["spec"]["labels"]
        if options.node not in (None, self.node["name"]) or any(mine.get(key) != labels[key] for key in labels):
            return False
        return self._has_kernel(options.kernel)

    def fits(self, options: UserOptions, labels: Mapping[str, str]) -> bool:
        if not self.could(options, labels):
            return False
        if options.cpus > self.cpus or options.memory_bytes > self.memory_bytes:
            return False
        return len(self.matching(options)) >= options.gpus

    def _has_kernel(self, name: str) -> bool:
        kernels = self.node.get("kernels")
        return not name or kernels is None or any(kernel["name"] == name for kernel in kernels)

    def keep(self, options: UserOptions, cpus: float, memory_bytes: int) -> None:
        """Count as not free what a request in the line waits for."""
        self.cpus = min(self.cpus, 0.0) if cpus else self.cpus
        self.memory_bytes = min(self.memory_bytes, 0.0) if memory_bytes else self.memory_bytes
        kept = self.matching(options) if options.gpus else []
        self.gpus = [gpu for gpu in self.gpus if gpu not in kept]

    def take(self, options: UserOptions) -> None:
        self.cpus -= options.cpus
        self.memory_bytes -= options.memory_bytes
        for gpu in self.matching(options)[: options.gpus]:
            self.gpus.remove(gpu)


class Room:
    """What is free on the farm, at one moment.

    Parameters
    ----------
    nodes
        As the controller tells them.
    leases
        All that are alive.
    """

    def __init__(self, nodes: Iterable[View], leases: Iterable[View]) -> None:
        promised: dict[str, list[View]] = {}
        waiting = []
        for lease in leases:
            if lease["node"] is not None:
                promised.setdefault(lease["node"], []).append(lease)
            elif lease["state"] == "waiting":
                waiting.append(lease["request"])
        able = (node for node in nodes if node["eligible"] and node["telemetry"] is not None)
        self._seen: dict[str, bool] = {}
        self._nodes = [_free(node, promised.get(node["name"], [])) for node in able]
        for request in waiting:
            self._keep(request)

    def _keep(self, request: View) -> None:
        options = from_json(UserOptions, request["options"])
        for free in self._nodes:
            if free.could(options, options.labels):
                free.keep(options, request["cpus"], request["memory_bytes"])

    def fits(self, options: UserOptions, labels: Mapping[str, str]) -> bool:
        """Whether a node could serve these options now.

        Parameters
        ----------
        labels
            All that the node must have: the options' and the agent's.
        """
        return any(free.fits(options, labels) for free in self._nodes)

    def sees(self, key: str, options: UserOptions, labels: Mapping[str, str]) -> bool:
        """Whether they fit; asked once for all that have the same key."""
        if key not in self._seen:
            self._seen[key] = self.fits(options, labels)
        return self._seen[key]

    def take(self, options: UserOptions, labels: Mapping[str, str]) -> bool:
        """Count these options as served; return whether there was a node that could."""
        fitting = [free for free in self._nodes if free.fits(options, labels)]
        if fitting:
            self._seen.clear()
            max(fitting, key=lambda free: free.cpus).take(options)
        return bool(fitting)


def _free(node: View, leases: list[View]) -> _Free:
    report = node["telemetry"]
    idle = report["cpus"] * (1 - (report["cpu_utilization_ratio"] or 0))
    cpus = min(report["cpus"] - sum(lease["request"]["cpus"] for lease in leases), idle)
    promised = sum(lease["request"]["memory_bytes"] for lease in leases)
    memory = min(report["memory_total_bytes"] - promised, report["memory_available_bytes"])
    held = {gpu for lease in leases for gpu in lease["gpus"]}
    split = {gpu["parent_uuid"] for gpu in report["gpus"]}
    gpus = [
        gpu
        for gpu in report["gpus"]
        if gpu["uuid"] not in held and gpu["uuid"] not in split and not gpu["foreign_pids"] and not gpu.get("leased")
    ]
    return _Free(node, cpus, memory, gpus)
