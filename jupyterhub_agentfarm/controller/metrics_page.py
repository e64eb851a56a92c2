"""The controller's own metrics: what it alone counts. The nodes' are on the benchmark service's page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..metrics import METRICS, head_lines, sample_line
from ..services.handlers import ServiceHandler

_REFUSED = "agentfarm_node_refused_total"


def refusals_text(nodes: Iterable[str], refused: Callable[[str], Mapping[str, int]]) -> str:
    """Return how often each node's connection was refused, for each reason, in Prometheus' text format.

    Parameters
    ----------
    nodes
        Names of the nodes.
    refused
        Returns the count for each reason.
    """
    lines = [
        sample_line(_REFUSED, {"node": node, "reason": reason}, count)
        for node in nodes
        for reason, count in refused(node).items()
    ]
    return head_lines(METRICS[_REFUSED]) + "".join(f"{line}\n" for line in lines)


class MetricsHandler(ServiceHandler):
    """``metrics``, in Prometheus' text format 0.0.4."""

    scopes = {"GET": "read:metrics"}

    async def get(self) -> None:
        """Answer the counters."""
        farm = self.service.farm
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        names = [node.name for node in farm.inventory.all_nodes()]
        requests = self.service.request_durations.text()
        await self.finish(farm.exits.text(names) + refusals_text(names, farm.inventory.refused) + requests)
