"""Lines about events have one form that programs can read, whatever is in their values."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.logs import LogLine, about
from jupyterhub_agentfarm.models import Lease, PlacementRequest

FIELD = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]+)')


def parsed(line: str, words: str) -> dict[str, str]:
    """Return the fields of a line, which must be all of it."""
    rest = line.removeprefix(words)
    assert FIELD.sub("", rest) == "", rest
    return {name: json.loads(value) if value[0] == '"' else value for name, value in FIELD.findall(rest)}


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,10}", fullmatch=True), st.text(max_size=30), max_size=5))
def test_a_line_is_one_line_that_reads_back(fields: dict[str, str]) -> None:
    """No value can end the line, begin another field, or reach a terminal as anything but printable ASCII."""
    fields.pop("words", None)
    line = str(LogLine("running", **fields))
    assert line.isascii()
    assert line.isprintable()
    assert parsed(line, "running") == fields


def test_the_form() -> None:
    """Node, server and lease come first; None is left out; lists are joined; the default server has the empty name."""
    request = PlacementRequest("ada", "")
    lease = Lease("0" * 32, "ada", "", "granted", 1, request, 0.0, node="n1", gpus=("GPU-a", "GPU-b"))
    line = LogLine("granted", gpus=lease.gpus, why=None, detail='a "b"', **about(lease))
    expected = f'granted node=n1 server=ada/ lease={lease.id} gpus=GPU-a,GPU-b detail="a \\"b\\""'
    assert str(line) == expected
    assert str(LogLine("drain", node="n1", reason="", deadline_at=1795362417.25)) == (
        'drain node=n1 reason="" deadline_at=1795362417.25'
    )
