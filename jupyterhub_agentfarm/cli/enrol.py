"""``agentfarm nodes add``: bring a node into use while the farm runs.

The controller fetches the node's host key; a person compares its fingerprint, or ``--fingerprint`` names it. Only then
is the key pinned and the node enrolled: from then on another key is refused.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import TYPE_CHECKING, Any, cast

from traitlets import Dict, Enum, Integer, List, Unicode

from ..errors import AgentFarmError, InvalidField
from ..models import NodeSpec, Role
from ..terminal.progress import bars
from .command import Command

if TYPE_CHECKING:
    from ..controller.client import FarmClient

_READY_SECONDS = 20
_POLL_SECONDS = 0.2


class EnrolmentRefused(AgentFarmError):
    """The node was not added."""

    reason = "enrolment"


class AddNode(Command):
    """Bring a node into use."""

    command = "agentfarm nodes add"
    description = (
        "Bring a node into use, without a restart. The fingerprint of its host key is shown and asked about; compare "
        "it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on the node."
    )
    examples = (
        "  agentfarm nodes add micro-4 10.0.0.14 --user farm --role microserver --label room=b\n"
        "  agentfarm nodes add gpu-1 10.0.0.21 --port-range 40000-40999 --noded-arg=--telemetry-interval=5"
    )
    positionals = ("NAME", "HOST[:PORT]")

    user = Unicode("", help="Account on the node. Default: the controller's.").tag(config=True)
    role = Enum(("microserver", "gpuserver"), "microserver", help="microserver or gpuserver.").tag(config=True)
    label = Dict(per_key_traits={}, value_trait=Unicode(), help="A label as key=value; may be repeated.").tag(
        config=True
    )
    python = Unicode("python3", help="Python on the node that has jupyterhub-agentfarm.").tag(config=True)
    server_python = Unicode("", help="Python on the node that servers start from. Default: the one of --python.").tag(
        config=True
    )
    ssh_keyfile = Unicode("", help="Private key to log in with, a path on the controller's machine.").tag(config=True)
    address = Unicode(
        "",
        help="Address that servers listen on and the Hub's proxy reaches. Default: the address that the SSH connection "
        "goes to, or HOST where that is not known.",
    ).tag(config=True)
    state_dir = Unicode("", help="noded's state directory on the node. Default: ~/.local/state/agentfarm there.").tag(
        config=True
    )
    port_range = Unicode(
        "", help="First and last port that servers may listen on, as in 40000-40999. Default: any free port."
    ).tag(config=True)
    noded_arg = List(
        Unicode(),
        help="An option for noded, after an equals sign as in the example; may be repeated.",
    ).tag(config=True)
    simulated_gpus = Integer(0, help="Number of GPUs to simulate, for trying things out.").tag(config=True)
    fingerprint = Unicode(
        "", help="The host key's fingerprint, as in SHA256:…; the node is added only when it has that one."
    ).tag(config=True)

    aliases = {
        **Command.aliases,
        "user": "AddNode.user",
        "role": "AddNode.role",
        "label": "AddNode.label",
        "python": "AddNode.python",
        "server-python": "AddNode.server_python",
        "ssh-keyfile": "AddNode.ssh_keyfile",
        "address": "AddNode.address",
        "state-dir": "AddNode.state_dir",
        "port-range": "AddNode.port_range",
        "noded-arg": "AddNode.noded_arg",
        "simulated-gpus": "AddNode.simulated_gpus",
        "fingerprint": "AddNode.fingerprint",
    }

    async def run(self) -> None:
        """Scan, compare, add, and wait until the node is ready."""
        name, (host, port) = self.extra_args[0], split_address(self.extra_args[1])
        self._spec(name, host, port, None)  # refuses a bad field before anything is asked
        async with self.farm() as farm:
            scanned = await farm.scan(host, port)
            self._confirm(host, port, scanned["fingerprint"])
            await farm.add_node(self._spec(name, host, port, scanned["host_key"]))
            node = await self._wait(farm, name)
        if self.json:
            self.output.json(node)
        else:
            self.output.line(f"{name} is ready.")

    def _spec(self, name: str, host: str, port: int, host_key: str | None) -> NodeSpec:
        return NodeSpec(
            name=name,
            host=host,
            port=port,
            user=self.user or None,
            role=cast("Role", self.role),
            labels=dict(self.label),
            address=self.address or None,
            host_key=host_key,
            ssh_keyfile=self.ssh_keyfile or None,
            python=self.python,
            server_python=self.server_python or None,
            state_dir=self.state_dir or None,
            simulated_gpus=self.simulated_gpus,
            port_range=split_ports(self.port_range) if self.port_range else None,
            noded_args=tuple(self.noded_arg),
        )

    def _confirm(self, host: str, port: int, fingerprint: str) -> None:
        """Return when the fingerprint is the node's.

        Raises
        ------
        EnrolmentRefused
            It is another one, it was declined, or there is nobody to ask.
        """
        where = f"{host}:{port}"
        if self.fingerprint:
            if fingerprint != self.fingerprint:
                raise EnrolmentRefused(
                    f"{where} has the host key {fingerprint}, not {self.fingerprint}: "
                    "do not add it before you know why (another machine, or somebody in between)"
                )
            return
        if not sys.stdin.isatty():
            raise EnrolmentRefused(
                f"nobody is here to compare the host key of {where}: add `--fingerprint {fingerprint}` "
                "when that is what `ssh-keygen -lf` prints on the node for its host key"
            )
        self.output.note(f"The host key of {where} has the fingerprint {fingerprint}.")
        self.output.stderr.write("Is this the node's fingerprint? [y/N] ")
        self.output.stderr.flush()
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise EnrolmentRefused("the fingerprint was not confirmed, so the node was not added")

    async def _wait(self, farm: FarmClient, name: str) -> dict[str, Any]:
        """Return the node when it is ready.

        Raises
        ------
        EnrolmentRefused
            It is not ready in time; the message has its detail.
        """
        deadline = time.monotonic() + _READY_SECONDS
        with bars(self.output) as progress:
            while True:
                node = await farm.node(name)
                ready = node["state"] == "ready"
                progress.show(f"waiting for {name}", int(ready), 1, "ready" if ready else node["detail"])
                if ready:
                    return node
                if time.monotonic() > deadline:
                    raise EnrolmentRefused(
                        f"{name} was added but is {node['state']} after {_READY_SECONDS} s ({node['detail']}): "
                        f"mend that and it comes by itself, or run `agentfarm nodes remove {name}`"
                    )
                await asyncio.sleep(_POLL_SECONDS)


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or a bare IPv6 address.

    Raises
    ------
    InvalidField
        It is none of these.
    """
    match = re.fullmatch(
        r"\[(?P<six>[^]]+)\](?::(?P<sixport>\d{1,5}))?|(?P<host>[^:\s\[\]]+)(?::(?P<port>\d{1,5}))?", text
    )
    if match:
        port = int(match["sixport"] or match["port"] or 22)
        if 0 < port < 65536:
            return match["six"] or match["host"], port
    elif text.count(":") > 1 and not re.search(r"[\[\]\s]", text):
        return text, 22
    raise InvalidField("HOST[:PORT]", "a host name or address, and a port of 1-65535 if not 22", text)


def split_ports(text: str) -> tuple[int, int]:
    """Return first and last port of ``FIRST-LAST``; whether there are such ports is for the node's record to say.

    Raises
    ------
    InvalidField
        It is not of that form.
    """
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.ASCII)
    if match is None:
        raise InvalidField("--port-range", "the first and the last port, as in 40000-40999", text)
    return int(match[1]), int(match[2])
