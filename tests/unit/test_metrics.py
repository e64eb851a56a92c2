"""The definitions of metrics keep the rules that they state."""

from __future__ import annotations

import pytest

from jupyterhub_agentfarm.metrics import METRICS, Metric, escape_label_value, format_value, head_lines, sample_line

_FORBIDDEN = {"user", "owner", "lease", "pid", "agent", "task", "path", "session", "message"}


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_definition(metric: Metric) -> None:
    """Prefix, unit, kind and labels follow the rules."""
    assert metric.name.startswith("agentfarm_")
    assert metric.help.endswith(".")
    assert (metric.type == "counter") == (metric.name.endswith("_total") and "_bytes" not in metric.name)
    assert not metric.unit or metric.name.endswith(f"_{metric.unit}")
    assert not _FORBIDDEN & set(metric.labels)
    assert (metric.scope == "node") == (metric.labels[:1] == ("node",))


def test_a_line_has_exactly_the_labels_of_its_definition() -> None:
    """A missing, further or misplaced label is refused."""
    assert sample_line("agentfarm_node_up", {"node": "n1"}, 1.0) == 'agentfarm_node_up{node="n1"} 1'
    for labels in ({}, {"node": "n1", "user": "ada"}, {"name": "n1"}):
        with pytest.raises(ValueError, match="has the labels"):
            sample_line("agentfarm_node_up", labels, 1)


def test_escapes() -> None:
    """What would end a label's value or a line is escaped."""
    assert escape_label_value('a"b\\c\nd') == 'a\\"b\\\\c\\nd'


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (0.25, "0.25"), (3, "3"), (1e300, "1e+300")])
def test_numbers(value: float, text: str) -> None:
    """Whole numbers have no fraction, others all their digits."""
    assert format_value(value) == text


def test_head() -> None:
    """The head names help and type."""
    assert head_lines(METRICS["agentfarm_node_cpus"]).splitlines() == [
        "# HELP agentfarm_node_cpus Logical processors of the node.",
        "# TYPE agentfarm_node_cpus gauge",
    ]
