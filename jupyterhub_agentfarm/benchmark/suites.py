"""Suites: which notebooks a run executes, with which parameters and deadlines. They are TOML files.

::

    name = "smoke"
    title = "Smoke test"
    description = "About a minute on two cores."
    gpus = "auto"                     # "auto": one where the node has any; or a number
    sample_interval_seconds = 2
    timeout_seconds = 600             # of the whole run

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
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AgentFarmError, InvalidField, NotFoundError
from ..records import from_json
from ..share import share_path

_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_NAME_FORM = "1-63 lower-case letters, digits, inner hyphens and underscores"


@dataclass(frozen=True)
class Case:
    """One measurement of a suite: a notebook with parameters."""

    name: str
    #: Path of the notebook, relative to the suite's file or to the shared folder of notebooks.
    notebook: str
    timeout_seconds: float = 600
    parameters: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        _check_name(self.name)
        _check_positive("timeout_seconds", self.timeout_seconds)
        path = Path(self.notebook)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".ipynb":
            raise InvalidField("notebook", "a relative path of an .ipynb file without ..", self.notebook)
        for key, value in self.parameters.items():
            _check_json(f"parameters.{key}", value)


@dataclass(frozen=True)
class Suite:
    """A set of cases that one run executes in order on every node."""

    name: str
    title: str
    cases: tuple[Case, ...]
    description: str = ""
    #: GPUs that each server asks for; None ("auto" in the file): one where the node has any.
    gpus: int | None = None
    sample_interval_seconds: float = 2
    #: Deadline of the whole run, the servers' start included.
    timeout_seconds: float = 3600
    #: SHA-256 of the file's text.
    sha256: str = ""
    #: Folder of the file.
    folder: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        _check_name(self.name)
        _check_positive("sample_interval_seconds", self.sample_interval_seconds)
        _check_positive("timeout_seconds", self.timeout_seconds)
        if self.gpus is not None and not 0 <= self.gpus <= 16:
            raise InvalidField("gpus", '"auto" or a whole number from 0 to 16', self.gpus)
        if not self.cases:
            raise InvalidField("case", "at least one [[case]]", None)
        names = [case.name for case in self.cases]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InvalidField("case.name", "different in every case", min(twice))

    def gpus_for(self, node_gpus: int) -> int:
        """Return how many GPUs the server on a node with `node_gpus` asks for."""
        return min(1, node_gpus) if self.gpus is None else self.gpus

    def notebook_path(self, case: Case) -> Path:
        """Return where a case's notebook lies.

        Raises
        ------
        NotFoundError
            It is neither beside the suite nor in the shared folder of notebooks.
        """
        places = (Path(self.folder), share_path("notebooks"))
        for place in places:
            if (place / case.notebook).is_file():
                return place / case.notebook
        looked = " and ".join(str(place) for place in places)
        raise NotFoundError(f"suite {self.name}, case {case.name}: there is no {case.notebook} in {looked}")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidField("name", _NAME_FORM, name)


def _check_positive(key: str, value: float) -> None:
    if not value > 0:
        raise InvalidField(key, "a number of seconds above 0", value)


def _check_json(key: str, value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise InvalidField(key, "a value that JSON can carry: no date, no nan", value) from exc


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
    for key in ("sha256", "folder", "cases"):
        if key in data:
            raise InvalidField(key, "left out: it is no key of a suite's file", data[key])
    entries = data.pop("case", ())
    if not isinstance(entries, list | tuple):
        raise InvalidField("case", "a list of tables: write [[case]]", entries)
    gpus = data.pop("gpus", "auto")
    if gpus != "auto" and (not isinstance(gpus, int) or isinstance(gpus, bool)):
        raise InvalidField("gpus", '"auto" or a whole number from 0 to 16', gpus)
    for index, entry in enumerate(entries):
        _case(entry, f"case[{index}]")
    filled = {**data, "cases": entries, "gpus": None if gpus == "auto" else gpus, "sha256": sha256, "folder": folder}
    return from_json(Suite, filled)


def _case(entry: object, where: str) -> Case:
    """Check one case; what its own constructor refuses gets its place in the file too."""
    try:
        return from_json(Case, entry, where)
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
