"""ControllerApp: the controller's process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from traitlets import Unicode, default

from .. import __version__
from ..inventory import Database, Inventory
from ..placement import PlacementPolicy
from ..services.app import ServiceApp
from ..transport import SSHPool
from .api import description
from .farm import Farm
from .handlers import ROUTES


class ControllerApp(ServiceApp):
    """Owns the nodes, placement and leases of the farm."""

    name = "agentfarm"
    description = "The controller of the farm: a Hub service that owns nodes, placement and leases."
    version = __version__
    classes = [Farm, Inventory, SSHPool, PlacementPolicy]

    db_url = Unicode(
        help="SQLAlchemy URL of the database that keeps leases and added nodes. The default is SQLite, "
        "agentfarm.sqlite in $AGENTFARM_DATA_DIR or the working directory, which serves thousands of nodes. "
        "PostgreSQL (postgresql://user@host/name, password in PGPASSFILE) when the machine's disk is not to be the "
        "only copy."
    ).tag(config=True)

    aliases = {**ServiceApp.aliases, "db": "ControllerApp.db_url"}

    @default("db_url")
    def _db_url_default(self) -> str:
        directory = Path(os.environ.get("AGENTFARM_DATA_DIR") or ".").absolute()
        return f"sqlite:///{directory / 'agentfarm.sqlite'}"

    _database: Database | None = None
    _farm: Farm | None = None

    @property
    def farm(self) -> Farm:
        """The farm; there is one between `open` and `close`."""
        assert self._farm is not None
        return self._farm

    def handlers(self) -> list[tuple[Any, ...]]:
        """Return the API and the page."""
        return ROUTES

    def openapi(self) -> dict[str, Any]:
        """Return the description of the API in OpenAPI 3.1."""
        return description(self.prefix + "api/v1")

    async def open(self) -> None:
        """Open the database, then the farm."""
        self._database = Database(self.db_url)
        await self._database.open()
        self._farm = Farm(self._database, parent=self)
        await self._farm.open()

    async def close(self) -> None:
        """Close the farm, then the database; servers stay."""
        if self._farm is not None:
            await self._farm.aclose()
        if self._database is not None:
            await self._database.aclose()


main = ControllerApp.launch_instance
