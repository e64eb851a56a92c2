"""The options page: what the farm has now, and what to ask for.

The numbers come from the controller when the page is made. When it does not answer, the page says so and still works:
everything can be left as it is. Whatever nodes say of themselves is escaped by the template.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from ..errors import AgentFarmError
from ..share import share_path
from .notices import on_every_page, take
from .options import Limits

_ANSWER_SECONDS = 2.0
_GIB = 2**30


@dataclass(frozen=True)
class Model:
    """The GPUs of one name on the eligible nodes."""

    name: str
    total: int
    free: int
    memory_gib: int
    simulated: bool


@dataclass(frozen=True)
class KernelChoice:
    """A kernel that some node's servers have."""

    name: str
    #: What people call it, as in "Python 3 (ipykernel)".
    shown: str
    #: Eligible nodes that have it.
    nodes: int


@dataclass(frozen=True)
class FarmView:
    """What the page says of the farm."""

    nodes: tuple[Mapping[str, Any], ...]
    models: tuple[Model, ...]
    labels: tuple[str, ...]
    waiting: int
    kernels: tuple[KernelChoice, ...] = ()

    @property
    def ready(self) -> int:
        """Nodes that take servers."""
        return sum(bool(node["eligible"]) for node in self.nodes)

    @property
    def free(self) -> int:
        """GPUs that a request could get now."""
        return sum(model.free for model in self.models)

    @property
    def total(self) -> int:
        """GPUs of the nodes that take servers."""
        return sum(model.total for model in self.models)

    @property
    def memory_gib(self) -> int:
        """Memory of the largest GPU, 0 when there is none."""
        return max((model.memory_gib for model in self.models), default=0)

    @property
    def most_cpus(self) -> int:
        """Cores of the largest node, 0 when none is known."""
        return max((report["cpus"] for report in self._reports), default=0)

    @property
    def most_memory_gib(self) -> float:
        """Memory of the node with most, 0 when none is known."""
        return max((report["memory_total_bytes"] / _GIB for report in self._reports), default=0)

    @property
    def _reports(self) -> Iterable[Mapping[str, Any]]:
        return (node["telemetry"] for node in self.nodes if node["eligible"] and node["telemetry"])


async def render(spawner: Any) -> str:
    """Return the options page's fields as HTML."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            client = spawner.watch.client
            nodes, queue = await asyncio.gather(client.nodes(), client.queue())
        farm = view(nodes, len(queue), spawner.allowed_labels)
    except (AgentFarmError, TimeoutError) as exc:
        spawner.log.warning("the options page is shown without the farm's state: %s", exc)
        farm = None
    notices = [] if on_every_page(spawner.user.settings) else take(spawner.user)
    limits = spawner.limits()
    shown = {"farm": farm, "limits": limits, "max_restarts": spawner.max_restarts, "notices": notices}
    return str(_template().render(**shown, **_most(farm, limits)))


def _most(farm: FarmView | None, limits: Limits) -> dict[str, float]:
    """Return what may be asked for at most of cores, and of memory in GiB; 0: not known."""
    cpus = [limits.max_cpus or 0, farm.most_cpus if farm is not None else 0]
    memory = [(limits.max_memory_bytes or 0) / _GIB, farm.most_memory_gib if farm is not None else 0]
    return {"max_cpus": min(filter(None, cpus), default=0), "max_memory_gib": min(filter(None, memory), default=0)}


def view(nodes: Iterable[Mapping[str, Any]], waiting: int, allowed: Mapping[str, Any] | None = None) -> FarmView:
    """Return what the page says of these nodes.

    Parameters
    ----------
    nodes
        As the controller lists them.
    waiting
        Length of the line.
    allowed
        Labels that the site lets users ask for; None: all.
    """
    listed = tuple(sorted(nodes, key=lambda node: str(node["name"])))
    eligible = [node for node in listed if node["eligible"]]
    labels = {
        f"{key}={value}"
        for node in listed
        for key, value in node["spec"]["labels"].items()
        if allowed is None or value in allowed.get(key, ())
    }
    return FarmView(listed, _models(eligible), tuple(sorted(labels)), waiting, _kernels(eligible))


def _kernels(nodes: Iterable[Mapping[str, Any]]) -> tuple[KernelChoice, ...]:
    shown: dict[str, str] = {}
    count: Counter[str] = Counter()
    for node in nodes:
        for kernel in node.get("kernels") or ():
            shown.setdefault(kernel["name"], kernel["display_name"])
            count[kernel["name"]] += 1
    return tuple(KernelChoice(name, shown[name] or name, count[name]) for name in sorted(shown))


def _models(nodes: Iterable[Mapping[str, Any]]) -> tuple[Model, ...]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes:
        for gpu in (node["telemetry"] or {}).get("gpus", ()):
            groups.setdefault(gpu["name"], []).append(gpu)
    return tuple(_model(name, gpus) for name, gpus in sorted(groups.items()))


def _model(name: str, gpus: list[Mapping[str, Any]]) -> Model:
    free = sum(not gpu["leased"] and not gpu["foreign_pids"] for gpu in gpus)
    memory = max((gpu["memory_total_bytes"] or 0 for gpu in gpus), default=0)
    return Model(name, len(gpus), free, round(memory / _GIB), any(gpu["simulated"] for gpu in gpus))


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(share_path("templates"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("spawn_form.html")
