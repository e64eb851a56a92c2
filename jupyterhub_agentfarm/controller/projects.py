"""What is there of the projects' workspaces on a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import NodedError
from ..protocol import ProjectsReport

if TYPE_CHECKING:
    from .farm import Farm


async def projects_of(farm: Farm, name: str) -> ProjectsReport:
    """Return what a node's noded finds of the workspaces of projects.

    Raises
    ------
    NotFoundError
        There is no such node.
    AgentFarmError
        It does not answer.
    """
    isolation = farm.inventory.isolation_of(farm.inventory.node(name).spec)
    if isolation.projects is None:
        return ProjectsReport()
    try:
        return await farm.inventory.link(name).client.projects(isolation)
    except NodedError as exc:
        if exc.reason == "unknown_method":
            return ProjectsReport(fault="noded there is too old to have projects")
        raise
