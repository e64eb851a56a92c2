"""The names of agents in a file: the agents service writes it, and the Hub reads it when somebody logs in."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from .local import write_private

log = logging.getLogger(__name__)

#: The file in the folder of the services' databases.
FILE_NAME = "agents-names.json"


def write(path: Path, names: Iterable[str]) -> None:
    """Keep the names of all agents.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    write_private(path, json.dumps(sorted(names)))


def read(path: Path) -> frozenset[str]:
    """Return the names of all agents; none where there is no file, or none that can be read."""
    try:
        return frozenset(json.loads(path.read_text()))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as exc:
        log.warning("the names of agents cannot be read from %s: %s", path, exc)
        return frozenset()
