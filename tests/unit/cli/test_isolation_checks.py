"""What the doctor and the lists say of a node's isolation."""

from __future__ import annotations

from typing import Any

import pytest

from jupyterhub_agentfarm.cli.isolation_checks import LIMITERS, check_isolation, isolation_line
from jupyterhub_agentfarm.isolation import Enforcement, Isolation, Limiter
from jupyterhub_agentfarm.records import to_json

STRONG = Enforcement("cgroup1", switches_accounts=True, devices=True, sandboxes=("none", "bubblewrap"))
WEAK = Enforcement(
    missing=(
        "Limits hold for single processes only: systemd does not run here.",
        "No accounts: noded runs as farm.",
        "No bubblewrap: bwrap is not installed; install the package bubblewrap.",
    )
)
PLAIN = Enforcement("cgroup2", sandboxes=("none", "bubblewrap"))
BY_NAME, SANDBOXED = Isolation(account="{username}"), Isolation(sandbox="bubblewrap")
IN_CONTAINERS = Isolation(sandbox="container", image="lab")
BOTH = Isolation(account="{username}", sandbox="bubblewrap")


@pytest.fixture
def node(node_view: Any) -> Any:
    """Return a function that makes a node with what it enforces and what was chosen."""

    def make(enforcement: Enforcement, chosen: Isolation) -> dict[str, Any]:
        view: dict[str, Any] = node_view("gpu01", isolation=to_json(chosen))
        view["facts"]["enforcement"] = to_json(enforcement)
        return view

    return make


@pytest.mark.parametrize(
    ("enforcement", "chosen", "levels"),
    [
        (STRONG, BY_NAME, {"limits": "ok", "accounts": "ok", "GPU devices": "ok"}),
        (STRONG, SANDBOXED, {"limits": "ok", "accounts": "fail", "sandbox": "ok"}),
        (STRONG, BOTH, {"limits": "ok", "accounts": "ok", "sandbox": "ok"}),
        (PLAIN, SANDBOXED, {"limits": "ok", "accounts": "ok", "sandbox": "ok"}),
        (STRONG, IN_CONTAINERS, {"limits": "ok", "accounts": "fail", "sandbox": "fail"}),
        (PLAIN, Isolation(), {"limits": "ok", "accounts": "warn", "GPU devices": "warn"}),
        (STRONG, Isolation(), {"limits": "ok", "accounts": "fail", "GPU devices": "ok"}),
        (WEAK, Isolation(), {"limits": "warn", "accounts": "warn", "GPU devices": "warn"}),
        (WEAK, BY_NAME, {"limits": "warn", "accounts": "fail", "GPU devices": "warn"}),
        (WEAK, SANDBOXED, {"limits": "warn", "accounts": "ok", "sandbox": "fail"}),
    ],
)
def test_findings(node: Any, enforcement: Enforcement, chosen: Isolation, levels: dict[str, str]) -> None:
    """What is chosen and cannot be given fails; what is open to other users is a warning; each has its mend."""
    findings = list(check_isolation(node(enforcement, chosen)))
    assert {finding.check.removeprefix("node gpu01: "): finding.level for finding in findings} == levels
    for finding in findings:
        assert bool(finding.mend) == (finding.level != "ok")


def test_the_sentences_say_what_is_open_and_why(node: Any) -> None:
    """The node's own reason is in the finding, and who can read what."""
    said = {finding.check: finding.message for finding in check_isolation(node(WEAK, Isolation()))}
    assert said["node gpu01: limits"] == "Limits hold for single processes only: systemd does not run here"
    assert said["node gpu01: accounts"].startswith("servers of gpu01 share one account: each can read the others'")
    root = {finding.check: finding.message for finding in check_isolation(node(STRONG, Isolation()))}
    assert root["node gpu01: accounts"].startswith("noded is root, and so is every server of gpu01")
    why = "No bubblewrap: bwrap is not installed; install the package bubblewrap"
    sandbox = [finding.message for finding in check_isolation(node(WEAK, SANDBOXED)) if "sandbox" in finding.check]
    assert sandbox == [f"no server can start: bubblewrap is chosen. {why}"]


def test_one_line_for_a_node(node: Any, node_view: Any) -> None:
    """The line names all three layers; a noded that says nothing has none, and no findings."""
    assert isolation_line(node(STRONG, BOTH)) == "limits: cgroup v1 · accounts: one per user · sandbox: bubblewrap"
    weak = "limits: each process by itself · accounts: one for all · sandbox: none"
    assert isolation_line(node(WEAK, Isolation())) == weak
    assert list(check_isolation(node_view("old"))) == []
    assert isolation_line(node_view("down", facts=None)) == "-"
    assert set(LIMITERS) == set(Limiter.__args__)  # type: ignore[attr-defined]


async def test_the_doctor_and_nodes_show_say_it(controller: Any, agentfarm: Any, node: Any) -> None:
    """Both commands have it."""
    controller.nodes = {"gpu01": node(WEAK, BY_NAME)}
    shown = await agentfarm("nodes", "show", "gpu01")
    assert "limits: each process by itself · accounts: one per user · sandbox: none" in shown.out
    found = await agentfarm("doctor")
    assert "fail  node gpu01: accounts: no server can start: each is to run as {username}" in found.out
