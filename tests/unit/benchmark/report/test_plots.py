"""Drawings: bounded, without lines over gaps, told in words, and in the page's colours."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from benchmark_records import START, run_node, run_record, sample, soak_page, soak_report, success
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyterhub_agentfarm.benchmark.report import charts
from jupyterhub_agentfarm.benchmark.report.drawing import COLOURS, style_of
from jupyterhub_agentfarm.benchmark.report.evidence import Evidence
from jupyterhub_agentfarm.benchmark.report.plots import plots_of_role
from jupyterhub_agentfarm.benchmark.report.traces import MAX_BAND_POINTS, MAX_LINE_POINTS, trace


def told(nodes: int, moments: list[float], **values: float) -> Evidence:
    """Return evidence of nodes that were sampled at these moments."""
    records = [run_node(f"n{number:03d}") for number in range(nodes)]
    end = max(moments, default=1)
    samples = [sample(node.name, at, **values) for at in moments for node in records]
    run = run_record(records, ["train"], end, sample_interval_seconds=10.0)
    return Evidence(run, [success("n000", "train", 0, end)], samples)


def test_few_samples_are_drawn_as_they_are_and_a_gap_breaks_the_line() -> None:
    """Between two samples with a gap there is a point that is not known."""
    found = trace(told(2, [0, 10, 20, 300, 310], cpu_utilization_ratio=0.5), ["n000", "n001"], "cpu_utilization_ratio")
    assert found.at_seconds.tolist() == [0, 10, 20, 160, 300, 310]
    assert np.isnan(found.rows["n001"]).tolist() == [False, False, False, True, False, False]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=150, max_size=400))
def test_thinning_keeps_the_mean_and_stays_within_the_values(values: list[float]) -> None:
    """However many samples there are, the line has few points; each is a mean of its time."""
    record = run_node("n1")
    samples = [sample("n1", 10 * place, cpu_utilization_ratio=value) for place, value in enumerate(values)]
    run = run_record([record], ["train"], 10 * len(values), sample_interval_seconds=10.0)
    found = trace(
        Evidence(run, [success("n1", "train", 0, 10 * len(values))], samples), ["n1"], "cpu_utilization_ratio"
    )
    row = found.rows["n1"]
    known = row[~np.isnan(row)]
    assert len(row) == MAX_LINE_POINTS
    assert known.min() >= min(values) - 1e-9
    assert known.max() <= max(values) + 1e-9


def test_bands_by_hand() -> None:
    """Of 0.0, 0.1 … 1.0 the least is 0, the median a half, and eight of ten lie from 0.1 to 0.9."""
    records = [run_node(f"n{number}") for number in range(11)]
    samples = [sample(node.name, at, cpu_utilization_ratio=n / 10) for n, node in enumerate(records) for at in (0, 10)]
    found = trace(
        Evidence(run_record(records, [], 10), (), samples), [node.name for node in records], "cpu_utilization_ratio"
    )
    bands = {name: band[0] for name, band in found.bands().items()}
    assert bands == pytest.approx({"least": 0, "low": 0.1, "median": 0.5, "high": 0.9, "most": 1})


def test_an_outlier_is_drawn_over_the_bands() -> None:
    """Of ten nodes the one that idles is named."""
    records = [run_node(f"n{number}") for number in range(10)]
    busy = [0.01 if n == 3 else 0.8 + n / 1000 for n in range(10)]
    samples = [sample(node.name, at, cpu_utilization_ratio=busy[n]) for n, node in enumerate(records) for at in (0, 10)]
    evidence = Evidence(run_record(records, [], 10), (), samples)
    assert trace(evidence, [node.name for node in records], "cpu_utilization_ratio").outliers() == ["n3"]
    drawn = plots_of_role(evidence, "Microservers", [node.name for node in records], (), ())
    assert ">n3<" in drawn[0].svg.replace("\n", "")


def test_no_two_of_the_first_lines_are_alike() -> None:
    """Lines differ in colour, dash and marker together, and the eight that a plot has differ without colours too."""
    styles = [(style["color"], style["linestyle"], style["marker"]) for style in map(style_of, range(24))]
    assert len(set(styles)) == 24
    assert len({style[1:] for style in styles[:8]}) == 8


@pytest.mark.parametrize(("nodes", "rounds"), [(1, 5), (8, 1000), (100, 500)])
def test_drawings_are_bounded(nodes: int, rounds: int) -> None:
    """A day of a hundred nodes is drawn in as little as an hour of eight."""
    evidence = told(nodes, [10.0 * number for number in range(rounds)], cpu_utilization_ratio=0.5)
    names = [node.name for node in evidence.nodes]
    (plot, *_) = plots_of_role(evidence, "Microservers", names, (), ())
    assert len(plot.svg) < 60_000
    assert trace(evidence, names, "cpu_utilization_ratio").at_seconds.size <= MAX_BAND_POINTS


def test_drawings_are_told_in_words_and_follow_the_page() -> None:
    """Each has a text alternative with its figures, colours that the page can replace, and no fixed ink."""
    drawings = re.findall(r"<svg.*?</svg>", soak_page(), re.DOTALL)
    assert len(drawings) > 14
    for drawing in drawings:
        root = ET.fromstring(drawing.replace("xlink:href", "href"))  # noqa: S314
        assert root.get("role") == "img"
        assert len(root.get("aria-label") or "") > 40
        assert "#123457" not in drawing
        assert all(f"--series-{n},{c}" in drawing for n, c in enumerate(COLOURS) if c.lower() in drawing.lower())
    assert any("GPU utilisation, % over time, 4 nodes: from " in drawing for drawing in drawings)


def test_events_are_marked_with_their_numbers() -> None:
    """The loss of micro-02 is event 3, and so it says in the plots of its role; the GPU server's know only the gap."""
    page = soak_page()
    micro, big = page.split('<h2 id="gpuserver">')
    micro = micro.split('<h2 id="microserver">')[1]
    assert "> 3<" in micro.replace("\n", "")
    assert "> 3<" not in big.split('<h2 id="results">')[0]
    assert re.search(r'<td class="n">3</td><td>\d:\d\d:\d\d</td><td class="wide">micro-02 was lost', page)


def test_a_node_that_was_lost_is_drawn() -> None:
    """Who was lost is drawn as a strip, with the time in words."""
    report = soak_report()
    titles = [plot.title for plot in plots_of_role(report.evidence, "Microservers", ["micro-01", "micro-02"], (), ())]
    assert "Nodes connected (hatched: lost)" in titles
    assert "micro-02 lost for 16 min 48 s" in soak_page()


def test_charts_of_nothing_are_none() -> None:
    """What there is nothing to draw of has no drawing."""
    run = run_record([run_node("n1")], ["train"], 10)
    evidence = Evidence(run)
    assert charts.durations(evidence, "Microservers", ["n1"]) is None
    assert charts.completion_rates("Microservers", []) is None
    assert plots_of_role(evidence, "Microservers", ["n1"], (), ()) == []


def test_names_are_texts_in_drawings() -> None:
    """A node's name with markup, mathematics or an underscore in front is drawn as it is."""
    names = ["<script>x</script>", "$\\frac{a}{b}$", "_hidden"]
    samples = [sample(name, at, cpu_utilization_ratio=0.5) for name in names for at in (0, 10)]
    run = run_record([run_node(name) for name in names], ["train"], 10)
    evidence = Evidence(run, [success(names[0], "train", 0, 10)], samples)
    drawing = plots_of_role(evidence, "Microservers", names, (), ())[0].svg
    assert "<script" not in drawing
    assert "&lt;script&gt;x" in drawing
    assert "$\\frac{a}{b}$" in drawing
    assert "_hidden" in drawing
    assert evidence.window == (START, START + 10)
