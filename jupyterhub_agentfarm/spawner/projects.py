"""Which of a user's Hub groups are projects."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..isolation import MAX_PROJECTS, is_project_name
from ..logs import LogLine, server_of

if TYPE_CHECKING:
    from .spawner import AgentFarmSpawner


def projects_of(spawner: AgentFarmSpawner) -> tuple[str, ...]:
    """Return the projects of a server's owner, as they are now.

    A group whose name can be no directory's is none, and the log says so: it must not keep its members from starting.
    """
    named = [group.name for group in spawner.user.groups if _is_one(group.name, spawner.projects)]
    odd = [name for name in named if not is_project_name(name)]
    if odd:
        spawner.log.warning(LogLine("groups whose names no directory can have", server=server_of(spawner), detail=odd))
    return tuple(sorted(set(named) - set(odd))[:MAX_PROJECTS])


def _is_one(group: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(group, pattern) for pattern in patterns)
