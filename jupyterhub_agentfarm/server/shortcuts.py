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
``extensions``  a twentieth of a second: JupyterLab's extension    none: it does so when it is first asked for
                manager prepares itself for PyPI                   something
``npm``         a third of a second of another processor, where    language servers that npm installed below a prefix
                npm is on the PATH: jupyter-lsp asks npm for its   of its global configuration are not found; other
                prefix when the server begins to answer            prefixes are
==============  =================================================  =================================================

All are taken unless ``AGENTFARM_SHORTCUTS`` in the server's environment names some, separated by commas; ``none`` names
none. `AgentFarmSpawner.shortcuts` sets it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .node_modules import node_roots

VARIABLE = "AGENTFARM_SHORTCUTS"
#: The entry point of :mod:`.extension_manager`.
MANAGER = "agentfarm"
DEFAULT = frozenset({"iri", "yarn", "extensions", "npm"})


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
    chosen, found = shortcuts(), dict[str, Any]()
    if find_spec("jupyterlab") is None:
        return found
    if "extensions" in chosen and _is_installed():
        found["LabApp"] = {"extension_manager": MANAGER}
    if "npm" in chosen:
        found["LanguageServerManager"] = {"node_roots": node_roots()}
    return found


def _is_installed() -> bool:
    """Return whether JupyterLab finds the farm's entry point: without it, it would not start."""
    return MANAGER in import_module("jupyterlab.extensions").MANAGERS
