"""The controller's own metrics: what it alone counts. The nodes' are on the benchmark service's page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..metrics import COLD_REASONS, METRICS, head_lines, sample_line
from ..models import Node
from ..services.exposing import ExposingHandler

_REFUSED = "agentfarm_node_refused_total"
_STARTS, _WARM = "agentfarm_server_starts_total", "agentfarm_node_warm"


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


def starts_text(nodes: Iterable[Node]) -> str:
    """Return how each node started servers, and whether it starts them warm, in Prometheus' text format.

    Parameters
    ----------
    nodes
        The nodes; those whose noded does not tell are left out.
    """
    told = [(node.name, node.telemetry.warm_starts) for node in nodes if node.telemetry and node.telemetry.warm_starts]
    lines: dict[str, list[str]] = {_STARTS: [], _WARM: []}
    for name, starts in told:
        lines[_WARM].append(sample_line(_WARM, {"node": name}, starts.state == "warm"))
        lines[_STARTS].append(sample_line(_STARTS, {"node": name, "way": "warm", "reason": ""}, starts.warm))
        for reason in COLD_REASONS:
            labels = {"node": name, "way": "cold", "reason": reason}
            lines[_STARTS].append(sample_line(_STARTS, labels, starts.cold.get(reason, 0)))
    return "".join(head_lines(METRICS[key]) + "".join(f"{line}\n" for line in found) for key, found in lines.items())


class MetricsHandler(ExposingHandler):
    """``metrics``, in Prometheus' text format 0.0.4."""

    async def get(self) -> None:
        """Answer the counters."""
        farm = self.service.farm
        nodes = farm.inventory.all_nodes()
        names = [node.name for node in nodes]
        ended = farm.exits.text(names) + refusals_text(names, farm.inventory.refused)
        self.expose(ended + starts_text(nodes) + self.service.request_durations.text())
