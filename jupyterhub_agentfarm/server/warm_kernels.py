"""Kernels of this server start warm, whoever asks: JupyterLab, VS Code, MCP, runs of notebooks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import distribution

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_server.serverapp import ServerApp
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily

from jupyterhub_agentfarm.kernels.conditions import REASONS
from jupyterhub_agentfarm.kernels.provisioner import NAME
from jupyterhub_agentfarm.kernels.warm import WarmKernels

_VARIABLE = KernelProvisionerFactory.default_provisioner_name_env
#: When the factory of kernels' provisioners is made at the latest: after the Hub has heard that the server answers.
_FACTORY_SECONDS = 0.5


class StartsCollector:
    """Shows in the server's own /metrics how its kernels were started.

    Parameters
    ----------
    kernels
        Counts them.
    """

    def __init__(self, kernels: WarmKernels) -> None:
        self._kernels = kernels

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Give one series for warm starts and one for each reason of a cold one, from zero."""
        text = "Kernels that were started: forked, or cold and why."
        family = CounterMetricFamily("agentfarm_kernel_starts", text, labels=("way", "reason"))
        for labels in (("warm", ""), *(("cold", reason) for reason in REASONS)):
            family.add_metric(labels, self._kernels.starts[labels])
        yield family


def use_warm_kernels(app: ServerApp) -> None:
    """Have the server's kernels started warm, unless its configuration says no, and by the farm's provisioner.

    That holds the ports of cold kernels, too. A configuration that names another gets what it names.
    """
    kernels = WarmKernels.instance(parent=app)
    named = _VARIABLE in os.environ or "KernelProvisionerFactory" in app.config
    ours = not named and _is_installed()
    if not (ours and kernels.enabled and kernels.inborn):
        kernels.decline()
    if ours:
        # The factory itself reads what every package that is installed has to offer: that can wait.
        app.config.KernelProvisionerFactory.default_provisioner_name = NAME
        app.io_loop.call_later(_FACTORY_SECONDS, _prepare, app)
        REGISTRY.register(StartsCollector(kernels))
        if kernels.early:
            kernels.begin()


def _prepare(app: ServerApp) -> None:
    """Have the factory made, before somebody makes it who does not know the server's configuration."""
    KernelProvisionerFactory.instance(parent=app).default_provisioner_name = NAME


def _is_installed() -> bool:
    """Return whether Jupyter finds the farm's provisioner."""
    found = distribution("jupyterhub-agentfarm").entry_points
    return any(point.group == KernelProvisionerFactory.GROUP_NAME and point.name == NAME for point in found)
