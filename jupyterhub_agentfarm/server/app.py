"""The server's application: what is set on top of jupyterhub-singleuser."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyterhub.singleuser.extension import JupyterHubSingleUser
from traitlets import default
from traitlets.config import Config

from jupyterhub_agentfarm import serving
from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.kernels.warm import WarmKernels

from .allowed_kernels import allowed_kernels, limited, starting_only
from .inherited import InheritedSocketApp, take_socket
from .shortcuts import configuration
from .warm_kernels import use_warm_kernels
from .websocket import NoDelayWebsocketConnection

#: Names the lease in every answer.
LEASE_HEADER = "X-AgentFarm-Lease"
#: The Hub notes the start itself: what a server tells it then would only keep it, for a write to its database.
FIRST_ACTIVITY_SECONDS = 5.0

#: Below the user's and the command line's configuration.
DEFAULTS = {"HubOAuth": {"cache_max_age": 30}}


class FarmServerApp(InheritedSocketApp):
    """Jupyter Server with the farm's defaults."""

    classes = [*ServerApp.classes, WarmKernels]

    @default("kernel_websocket_connection_class")
    def _default_connection_class(self) -> Any:
        usual = self._default_kernel_websocket_connection_class()
        return NoDelayWebsocketConnection if usual is ZMQChannelsWebsocketConnection else usual

    @default("no_browser_open_file")
    def _default_no_browser_open_file(self) -> bool:
        return True  # it would hold the server's token, readable for everybody who can enter its directory

    def load_config_file(self, *args: Any, **kwargs: Any) -> None:
        """Load the configuration files, on top of the farm's defaults.

        Jupyter's application puts the command line on top once more after this.
        """
        self.update_config(Config(DEFAULTS))
        self.update_config(Config(configuration()))
        super().load_config_file(*args, **kwargs)

    def init_configurables(self) -> None:
        """Make the server's parts; they start only kernels that the server's owner may use, whatever is configured."""
        use_warm_kernels(self)
        allowed = allowed_kernels()
        self.gateway_config = GatewayClient.instance(parent=self)  # which the default of the class looks at
        if allowed and not self.gateway_config.gateway_enabled:  # the kernels of a gateway are not of this farm
            self.kernel_spec_manager_class = limited(self.kernel_spec_manager_class, allowed)
            self.kernel_manager_class = starting_only(self.kernel_manager_class, allowed)
        super().init_configurables()
        if allowed and self.kernel_manager.default_kernel_name.lower() not in allowed:
            assert self.kernel_spec_manager is not None
            found = self.kernel_spec_manager.find_kernel_specs()
            self.kernel_manager.default_kernel_name = next((name for name in allowed if name in found), allowed[0])

    def init_webapp(self) -> None:
        """Make the web application, and have it name the lease."""
        super().init_webapp()
        lease = os.environ.get("AGENTFARM_LEASE_ID")
        if lease:
            # The same dict that JupyterHub adds its version to.
            self.web_app.settings.setdefault("headers", {})[LEASE_HEADER] = lease

    def start_ioloop(self) -> None:
        """Serve, and tell whoever started the server that it does."""
        self.io_loop.add_callback(serving.tell)
        super().start_ioloop()


class FarmSingleUser(JupyterHubSingleUser):
    """jupyterhub-singleuser in a :class:`FarmServerApp`."""

    serverapp_class = FarmServerApp

    async def keep_activity_updated(self) -> None:
        """Tell the Hub of activity, now and then; not in the moment in which it is finishing the start."""
        await asyncio.sleep(FIRST_ACTIVITY_SECONDS)
        await super().keep_activity_updated()

    @classmethod
    def get_extension_package(cls) -> str:
        """Return whose extension this starts: JupyterHub's own, unchanged."""
        return "jupyterhub"


def main(argv: list[str] | None = None) -> None:
    """Run the server until it is stopped."""
    try:
        FarmServerApp.inherited_socket = take_socket()
    except InvalidField as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(1)
    FarmSingleUser.launch_instance(argv)
