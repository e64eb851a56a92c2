"""What the commands that talk to the farm's services have in common."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from traitlets import Bool, Unicode, default

from ..errors import ConfigError
from ..services.local import default_runtime_dir
from ..terminal.output import Output
from ..terminal.parsing import Parsed

if TYPE_CHECKING:
    from ..controller.client import FarmClient


class Command(Parsed):
    """A command; subclasses implement :meth:`run`."""

    json = Bool(False, help="Write JSON instead of a table.").tag(config=True)
    runtime_dir = Unicode(
        help="The farm's runtime directory, with the local token and the services' addresses. "
        "Default: $AGENTFARM_RUNTIME_DIR or ./agentfarm-runtime."
    ).tag(config=True)
    url = Unicode(
        "",
        help="URL of the service, as in https://hub.example.org/services/agentfarm/; the token for it comes from "
        "$JUPYTERHUB_API_TOKEN. Default: the service that the runtime directory names.",
    ).tag(config=True)

    aliases = {"runtime-dir": "Command.runtime_dir", "url": "Command.url"}
    flags = {"json": ({"Command": {"json": True}}, "Write JSON instead of a table.")}

    @default("runtime_dir")
    def _runtime_dir_default(self) -> str:
        return str(default_runtime_dir())

    @property
    def output(self) -> Output:
        """Where to write."""
        return Output()

    def start(self) -> None:
        """Run the command; its errors are the caller's."""
        asyncio.run(self.run())

    async def run(self) -> None:
        """Do what the command is for."""
        raise NotImplementedError

    def client_options(self) -> dict[str, str]:
        """Return what the clients of the services are made with.

        Raises
        ------
        ConfigError
            A URL is given without a token for it.
        """
        options = {"runtime_dir": self.runtime_dir}
        if self.url:
            token = os.environ.get("JUPYTERHUB_API_TOKEN")
            if not token:  # the local token is for this machine only: it must not be sent to any URL
                raise ConfigError("--url needs a Hub token in $JUPYTERHUB_API_TOKEN: make one on the Hub's token page")
            options |= {"url": self.url, "token": token}
        return options

    @asynccontextmanager
    async def farm(self) -> AsyncIterator[FarmClient]:
        """Give a client of the controller for as long as the block runs."""
        from ..controller.client import FarmClient

        client = FarmClient(parent=self, **self.client_options())
        try:
            yield client
        finally:
            await client.aclose()
