"""The doctor's check of the workspaces of projects on a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import AgentFarmError
from ..protocol import ProjectsReport
from .findings import Finding, fail, ok, warn


def check_projects(node: Mapping[str, Any], found: ProjectsReport | AgentFarmError) -> list[Finding]:
    """Return the findings about a node's projects; none where it is to have none.

    Parameters
    ----------
    node
        As `GET nodes/{name}` describes it.
    found
        What ``GET nodes/{name}/projects`` answered, or why there is no answer.
    """
    chosen = node.get("isolation") or {}
    root = chosen.get("projects")
    if root is None:
        return []
    check = f"node {node['name']}: projects"
    if isinstance(found, AgentFarmError):
        return [warn(check, f"not known: {found.message}", "run the doctor again, as an admin of the farm")]
    if found.fault:
        return [fail(check, f"no member of a project can start a server: {found.fault}", f"make or mount {root} there")]
    findings = [
        fail(check, f"{name}: no member can start a server: {fault}", f"mend {root}/{name} on {node['name']}")
        for name, fault in found.faults.items()
    ]
    if chosen.get("account") is None and chosen.get("sandbox", "none") == "none":
        mend = "set an account or a sandbox in c.Inventory.isolation, or let only members use the node"
        findings.append(warn(check, f"every server of {node['name']} reaches every project in {root}", mend))
    return findings or [ok(check, _there(root, found.names))]


def _there(root: str, names: tuple[str, ...]) -> str:
    return f"{root} has {', '.join(names)}" if names else f"{root} is there, and empty until a member starts"
