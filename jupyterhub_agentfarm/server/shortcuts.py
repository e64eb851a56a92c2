"""What the start of a server leaves out, by default and when the site says so, and what that costs.

==============  =================================================  =================================================
shortcut        saves                                              price
==============  =================================================  =================================================
``iri``         1-3 seconds: jsonschema builds a grammar of IRIs   JSON schemas with the formats "iri" and
                when it is imported                                "iri-reference" take any text for these; rfc3987
                                                                   cannot be imported in the server (in kernels: yes)
``yarn``        half a second, where Node.js is on the PATH:       none: what it learns is asked for again when
                JupyterLab asks yarn for its configuration when    JupyterLab is built
                it is imported
``extensions``  a tenth of a second: JupyterLab's extension        extensions from PyPI are not listed and cannot be
                manager prepares itself for PyPI                   installed in JupyterLab
==============  =================================================  =================================================

The first two are taken unless ``AGENTFARM_SHORTCUTS`` in the server's environment names others, separated by commas;
``none`` names none. `AgentFarmSpawner.shortcuts` sets it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

VARIABLE = "AGENTFARM_SHORTCUTS"
DEFAULT = frozenset({"iri", "yarn"})


def shortcuts(environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the shortcuts that this server takes."""
    given = environment.get(VARIABLE)
    return DEFAULT if given is None else frozenset(name.strip() for name in given.split(","))


def take() -> None:
    """Take those that have to be taken before anything else is imported."""
    chosen = shortcuts()
    if "iri" in chosen and "rfc3987_syntax" not in sys.modules:
        # jsonschema does without it where it cannot be imported.
        sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    if "yarn" in chosen and find_spec("jupyterlab") is not None:
        _import_lab()


def _import_lab() -> None:
    before = os.environ.get("PATH")
    os.environ["PATH"] = os.devnull  # where JupyterLab finds no Node.js, and asks nothing; "" would be the default path
    try:
        import_module("jupyterlab.labapp")
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def configuration() -> dict[str, Any]:
    """Return what the rest of them sets in the server's configuration."""
    return {"LabApp": {"extension_manager": "readonly"}} if "extensions" in shortcuts() else {}
