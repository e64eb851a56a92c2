"""JupyterLab's extension manager, which prepares itself for PyPI when somebody asks it for something.

Before that it reads all certificates that the machine trusts, at each start of a server, for a page that few open. This
one is found by JupyterLab through the entry points ``jupyterlab.extension_manager_v1``.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from jupyterlab.extensions.manager import ExtensionManagerMetadata
from jupyterlab.extensions.pypi import PyPIExtensionManager


class Later:
    """Stands for the manager that JupyterLab has by default, and makes that when it is first needed.

    Parameters
    ----------
    app_options, ext_options, parent
        What JupyterLab gives each manager.
    """

    def __init__(self, app_options: Any = None, ext_options: Any = None, parent: Any = None) -> None:
        self._make = functools.partial(PyPIExtensionManager, app_options, ext_options, parent)

    @property
    def metadata(self) -> ExtensionManagerMetadata:
        """What JupyterLab's page is told of the manager."""
        return ExtensionManagerMetadata("PyPI", True, sys.prefix)

    @functools.cached_property
    def _manager(self) -> PyPIExtensionManager:
        return self._make()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)
