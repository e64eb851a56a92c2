"""What a node is told to launch: the spawner's order, and what the controller knows of lease and node."""

from __future__ import annotations

import dataclasses
import ipaddress

from ..isolation import Isolation
from ..models import LaunchOrder, LaunchSpec, Lease, NodeSpec, OwnerLimits

#: Tells a server the names of the kernels that its owner may use; see :mod:`..server.allowed_kernels`.
KERNELS_VARIABLE = "AGENTFARM_KERNELS"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own, as far as can be told without asking for it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_address(node: NodeSpec, peer_address: str | None) -> str:
    """Return the address that servers of a node listen on, which is the one that the Hub reaches them at.

    Without an `address` of its own it is where the controller reaches the node's sshd, `peer_address`: the node itself
    may know its name as a loopback address.
    """
    return node.address or peer_address or node.host


def server_python(node: NodeSpec) -> str:
    """Return the Python that the node's servers start from."""
    return node.server_python or node.python


def versions_command(node: NodeSpec, isolation: Isolation) -> list[str]:
    """Return the command that prints, on the node, the versions of what its servers start from."""
    return _in_image(isolation, [server_python(node), "-m", "jupyterhub_agentfarm.server.versions"])


def kernels_command(node: NodeSpec, isolation: Isolation) -> list[str]:
    """Return the command that prints, on the node, the kernels of what its servers start from.

    Those of the account that it runs as count only where servers run as that account, with its home.
    """
    apart = isolation.account is not None or isolation.sandbox != "none"
    command = [server_python(node), "-m", "jupyterhub_agentfarm.server.kernels"]
    return _in_image(isolation, [*command, *(["--shared"] if apart else [])])


def _in_image(isolation: Isolation, command: list[str]) -> list[str]:
    """Return how a command is run where servers are: in their image, when they have one."""
    if isolation.image is None:
        return command
    alone = ["--rm", "--network=none", "--cap-drop=ALL", "--pull=never", "--log-driver=none", "--entrypoint="]
    return [isolation.engine, "run", *alone, isolation.image, *command]


def limited_order(order: LaunchOrder, limits: OwnerLimits) -> LaunchOrder:
    """Return the order for a server that starts only the kernels that its owner may use."""
    if not limits.kernels:
        return order
    return dataclasses.replace(order, environment={**order.environment, KERNELS_VARIABLE: ",".join(limits.kernels)})


def launch_spec(
    lease: Lease, order: LaunchOrder, node: NodeSpec, isolation: Isolation, peer_address: str | None = None
) -> LaunchSpec:
    """Return what noded is told: the order, and what the controller knows of lease and node."""
    program = server_python(node) if order.command[0] == "{python}" else order.command[0]
    fields = {field.name: getattr(order, field.name) for field in dataclasses.fields(order)}
    return LaunchSpec(
        **fields | {"command": (program, *order.command[1:])},
        lease=lease.id,
        epoch=lease.epoch,
        gpus=lease.gpus,
        address=server_address(node, peer_address),
        port_range=node.port_range,
        owner=lease.owner,
        isolation=isolation,
    )
