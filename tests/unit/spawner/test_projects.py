"""Which Hub groups of a user are projects."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from jupyterhub_agentfarm.spawner.projects import projects_of


def spawner(projects: set[str], *groups: str) -> Any:
    """Return what is asked of a spawner."""
    user = SimpleNamespace(name="ada", groups=[SimpleNamespace(name=name) for name in groups])
    return SimpleNamespace(projects=projects, user=user, name="", log=logging.getLogger("test"))


def test_groups_are_projects_when_the_site_says_so() -> None:
    """By name or by pattern, sorted; no other group of the user is, and with nothing said none is."""
    groups = ("vision", "agents", "project-b", "project-a")
    assert projects_of(spawner({"vision", "project-*"}, *groups)) == ("project-a", "project-b", "vision")
    assert projects_of(spawner(set(), *groups)) == ()


def test_a_group_that_no_directory_can_be_called_after_stops_no_start(caplog: pytest.LogCaptureFixture) -> None:
    """It is left out, and the log says so."""
    with caplog.at_level(logging.WARNING):
        assert projects_of(spawner({"*"}, "../x", "our team", "quant")) == ("quant",)
    assert "../x" in caplog.text
    assert "our team" in caplog.text
