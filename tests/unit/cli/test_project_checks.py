"""What the doctor says of a node's projects."""

from __future__ import annotations

from typing import Any

import pytest

from jupyterhub_agentfarm.cli.project_checks import check_projects
from jupyterhub_agentfarm.errors import AgentFarmError, NodeUnreachable
from jupyterhub_agentfarm.protocol import ProjectsReport

APART = {"projects": "/srv/projects", "account": "{username}"}
SHARED = {"projects": "/srv/projects", "account": None, "sandbox": "none"}


@pytest.mark.parametrize(
    ("isolation", "found", "levels", "said"),
    [
        (APART, ProjectsReport(("quant", "vision")), ["ok"], "/srv/projects has quant, vision"),
        (APART, ProjectsReport(), ["ok"], "empty until a member starts"),
        (APART, ProjectsReport(("quant",), {"quant": "has the mode 777, not 2770"}), ["fail"], "quant: no member can"),
        (APART, ProjectsReport(fault="/srv/projects is not there"), ["fail"], "/srv/projects is not there"),
        (APART, NodeUnreachable("gpu01", "no answer"), ["warn"], "not known"),
        (SHARED, ProjectsReport(("quant",)), ["warn"], "every server of gpu01 reaches every project"),
        ({}, ProjectsReport(), [], ""),
        (None, ProjectsReport(), [], ""),
    ],
)
def test_findings(isolation: Any, found: ProjectsReport | AgentFarmError, levels: list[str], said: str) -> None:
    """Each finding has its level, says what is there or what is wrong, and how to mend that."""
    findings = check_projects({"name": "gpu01", "isolation": isolation}, found)
    assert [finding.level for finding in findings] == levels
    assert said in "".join(finding.message for finding in findings)
    assert all(bool(finding.mend) == (finding.level != "ok") for finding in findings)
