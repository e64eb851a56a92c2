"""Kernels of this server start warm, whoever asks: JupyterLab, VS Code, MCP, runs of notebooks."""

from __future__ import annotations

import os
from collections.abc import Iterator

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_server.serverapp import ServerApp
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily

from jupyterhub_agentfarm.kernels.conditions import REASONS
from jupyterhub_agentfarm.kernels.provisioner import NAME
from jupyterhub_agentfarm.kernels.warm import WarmKernels


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
    """Have the server's kernels started warm, unless its configuration names a provisioner or says no."""
    kernels = WarmKernels.instance(parent=app)
    factory = KernelProvisionerFactory.instance(parent=app)
    named = factory.default_provisioner_name_env in os.environ or "KernelProvisionerFactory" in app.config
    forking = kernels.enabled and not named and NAME in factory.get_provisioner_entries()
    if not (forking and kernels.inborn):
        kernels.decline()
    if forking:
        factory.default_provisioner_name = NAME
        REGISTRY.register(StartsCollector(kernels))
        if kernels.early:
            kernels.begin()
