"""The tier of faults: run by `make test-faults`, never by `make test`.

Every test here gets the marker `faults`, an event loop of its module, so that a module can share one farm, and five
minutes. What is measured is printed as one table at the end (table.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import netns
import pytest
from faults import table

HERE = Path(__file__).parent
TIMEOUT_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; skip them where hosts cannot be made."""
    ours = [item for item in items if HERE in item.path.parents]
    reason = netns.why_not() if ours else None
    for item in ours:
        item.add_marker(pytest.mark.faults)
        item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"faults: {reason}"))


@pytest.fixture
def figure() -> Callable[..., bool]:
    """Give the function that records a figure; see :func:`table.figure`."""
    return table.figure


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, and write it where $FAULTS_RESULTS says."""
    if not table.rows():
        return
    terminalreporter.section("acceptance tests")
    for line in table.as_text():
        terminalreporter.line(line)
    if path := os.environ.get("FAULTS_RESULTS"):
        table.write(Path(path))
        terminalreporter.line(f"written to {path}.json and {path}.md")
