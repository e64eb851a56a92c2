"""Suites: which notebooks a run executes, with which parameters and deadlines. They are TOML files.

::

    name = "smoke"
    title = "Smoke test"
    description = "About a minute on two cores."
    gpus = "auto"                     # "auto": one where the node has any; or a number
    sample_interval_seconds = 2       # 300 by default
    timeout_seconds = 600             # of the whole run, beyond the duration that it is to go on for
    mode = "repeat"                   # or "once" (the default), "duration", "ramp"
    repeat = 3                        # of mode "repeat", and of each step of "ramp"
    # duration = "4h"                 # of mode "duration": how long its phases go on together
    # ramp = [1, 2, 4, "all"]         # of mode "ramp": numbers of nodes; doubled up to all by default
    warm_up = 1                       # repetitions at the start of each phase that do not count
    concurrency = 1                   # cases at once for each GPU of a server, or for the server where it has none
    work = "each"                     # "shared": the nodes of a phase share the work, by dividing …
    # shared_parameters = ["scale"]   # … these parameters by their number
    exclusive = false                 # true: the nodes are drained first and kept for the run

    [targets]                         # all eligible nodes by default; a request for a run may name others
    role = "microserver"
    labels = {rack = "a"}
    # nodes = ["micro-1", "micro-2"]

    [limits]                          # what the run must keep within to pass
    max_memory_ratio = 0.9            # max_gpu_memory_ratio too, of any node at any sample
    min_succeeded_ratio = 0.99        # 1 by default
    min_cases_per_minute = 10         # of the farm
    max_nodes_lost = 0
    min_balance_ratio = 0.8
    fail_fast = false                 # true: a limit that cannot hold any more ends the run

    [[phase]]                         # one phase on all nodes by default
    name = "shared"
    nodes = 0                         # all
    concurrency = 2
    repeat = 2

    [[case]]
    name = "linear-algebra"
    notebook = "linear_algebra.ipynb" # beside the suite, or in the shared folder of notebooks
    timeout_seconds = 120
    [case.parameters]
    size = 1000

Reading is strict: every error names the file, the key, what is wanted and what was found.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import AgentFarmError, InvalidField, NotFoundError
from ..records import from_json
from ..traitlets import parse_seconds
from .definition import Case, Limits, Suite, SuitePhase, Targets

__all__ = ["Case", "Limits", "Suite", "SuiteCatalogue", "SuitePhase", "Targets", "read_suite"]


def read_suite(path: Path) -> Suite:
    """Return the suite in the file at `path`.

    Raises
    ------
    InvalidField
        The file is not TOML, or not such a suite.
    """
    raw = path.read_bytes()
    try:
        data = tomllib.loads(raw.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise InvalidField(path.name, f"a TOML file ({exc})", raw[:40]) from exc
    try:
        return _suite(data, hashlib.sha256(raw).hexdigest(), str(path.parent))
    except InvalidField as exc:
        raise InvalidField(f"{path.name}: {exc.field}", exc.wanted, exc.got) from exc


def _suite(data: dict[str, Any], sha256: str, folder: str) -> Suite:
    for key in ("sha256", "folder", "cases", "phase_tables", "duration_seconds"):
        if key in data:
            raise InvalidField(key, "left out: it is no key of a suite's file", data[key])
    filled: dict[str, Any] = {"sha256": sha256, "folder": folder, "cases": _tables(data, "case", Case)}
    filled["phase_tables"] = _tables(data, "phase", SuitePhase)
    filled["gpus"] = _gpus(data.pop("gpus", "auto"))
    if "duration" in data:
        filled["duration_seconds"] = _seconds(data.pop("duration"))
    if isinstance(ramp := data.get("ramp"), list):
        filled["ramp"] = [0 if step == "all" else step for step in ramp]
    for key, record in (("targets", Targets), ("limits", Limits)):
        if key in data:
            _placed(record, data[key], key)
    return from_json(Suite, {**data, **filled})


def _tables(data: dict[str, Any], key: str, record: type[Any]) -> list[Any]:
    """Take the tables called `key` out of the file's data, and check each."""
    entries = data.pop(key, [])
    if not isinstance(entries, list):
        raise InvalidField(key, f"a list of tables: write [[{key}]]", entries)
    for index, entry in enumerate(entries):
        _placed(record, entry, f"{key}[{index}]")
    return entries


def _gpus(value: object) -> int | None:
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidField("gpus", '"auto" or a whole number from 0 to 16', value)
    return value


def _seconds(value: object) -> float:
    """Return a duration in seconds, written as a number or with a unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        return parse_seconds(value if isinstance(value, str) else "")
    except ValueError as exc:
        raise InvalidField("duration", 'a number of seconds above 0, or as in "90s", "15m", "4h"', value) from exc


def _placed(record: type[Any], entry: object, where: str) -> None:
    """Check a table; what its own constructor refuses gets its place in the file too."""
    try:
        from_json(record, entry, where)
    except InvalidField as exc:
        if exc.field.startswith(where):
            raise
        raise InvalidField(f"{where}.{exc.field}", exc.wanted, exc.got) from exc


class SuiteCatalogue:
    """The suites in a list of folders; files are read anew at each question, so that editing needs no restart.

    Parameters
    ----------
    folders
        Where ``*.toml`` are looked for; an earlier folder wins over a later one.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(folders)
        #: Names of the suites that were there when last looked.
        self.names: tuple[str, ...] = ()

    def load(self) -> tuple[dict[str, Suite], dict[str, str]]:
        """Return the suites by name, and for each file that cannot be used why."""
        suites: dict[str, Suite] = {}
        problems: dict[str, str] = {}
        for path in (path for folder in self.folders for path in sorted(folder.glob("*.toml"))):
            try:
                suite = read_suite(path)
                for case in suite.cases:
                    suite.notebook_path(case)
            except (AgentFarmError, OSError) as exc:
                problems[str(path)] = str(exc)
            else:
                suites.setdefault(suite.name, suite)
        self.names = tuple(sorted(suites))
        return suites, problems

    def get(self, name: str) -> Suite:
        """Return the suite called `name`.

        Raises
        ------
        NotFoundError
            There is none; the message names those that exist and the files that cannot be used.
        """
        suites, problems = self.load()
        if name in suites:
            return suites[name]
        known = ", ".join(sorted(suites)) or "none"
        broken = "".join(f"; {why}" for why in problems.values())
        raise NotFoundError(f"there is no suite {name!r} (known: {known}{broken})")
