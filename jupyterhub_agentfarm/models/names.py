"""Words and names that the records share: what a state or a reason can be, and what can name a node or a kernel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from ..errors import InvalidField

HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_:][A-Za-z0-9_:%-]{0,62}(\.[A-Za-z0-9_:%-]{1,63}){0,126}\.?")
#: Nodes that a request may name as those to avoid.
MOST_AVOIDED = 16
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: What Jupyter takes as the name of a kernelspec.
KERNEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")

Role = Literal["microserver", "gpuserver"]
NodeState = Literal["ready", "unreachable", "down"]
LeaseState = Literal["waiting", "granted", "running", "stopping", "released"]
ServerState = Literal["starting", "running", "exited"]
Restart = Literal["never", "on-node-failure"]
GpuHealth = Literal["ok", "absent", "hanging", "failed"]
ExitCause = Literal["exited", "signal", "oom", "stopped", "unknown"]
#: Why a server was not started warm: an admin chose so; it starts another program than the farm's server; a sandbox, or
#: a way to limit, that a process cannot be put into later; a variable that only an executed program heeds, or that was
#: read by what is imported before the fork; packages of the account's own; no zygote yet; its environment changed; the
#: environment cannot be kept warm; a warm start was tried and failed.
ColdReason = Literal[
    "off",
    "program",
    "sandbox",
    "limiter",
    "variables",
    "user_site",
    "no_zygote",
    "renewing",
    "unfit",
    "failed",
]
#: Why a lease ended. "withdrawn", "quota" and "not_started" had no server; "stopped" was asked for.
LeaseEnd = Literal[
    "stopped",
    "drained",
    "exited",
    "signal",
    "oom",
    "unknown",
    "node_down",
    "node_restarted",
    "withdrawn",
    "quota",
    "not_started",
]


def check_node_name(name: str, where: str = "name") -> str:
    """Return `name` when it can name a node: it becomes a label of metrics and a part of server names.

    Raises
    ------
    InvalidField
        It is not 1-63 lower-case letters, digits and inner hyphens.
    """
    if not NODE_NAME.fullmatch(name):
        raise InvalidField(where, "1-63 lower-case letters, digits and inner hyphens", name)
    return name


def check_host(host: str, where: str = "host") -> str:
    """Return `host` when a name of the DNS or an IP address can look like it; others cannot even be asked for.

    Raises
    ------
    InvalidField
        It is neither.
    """
    if not HOST_NAME.fullmatch(host):
        raise InvalidField(where, "a host name or an IP address", host)
    return host


def check_kernel_name(name: str, where: str = "kernel") -> str:
    """Return `name` when it can name a kernelspec.

    Raises
    ------
    InvalidField
        It cannot.
    """
    if not KERNEL_NAME.fullmatch(name):
        raise InvalidField(where, "the name of a kernelspec, as in python3: letters, digits, '.', '_' and '-'", name)
    return name


def check_avoided(names: tuple[str, ...]) -> None:
    """Refuse what cannot be nodes to avoid.

    Raises
    ------
    InvalidField
        There are too many, or one is no name of a node.
    """
    if len(names) > MOST_AVOIDED:
        raise InvalidField("avoid", f"at most {MOST_AVOIDED} names of nodes", f"{len(names)} names")
    for index, name in enumerate(names):
        check_node_name(name, f"avoid[{index}]")


def check_labels(labels: Mapping[str, str]) -> None:
    """Refuse more labels, or longer ones, than anybody needs.

    Raises
    ------
    InvalidField
        There are.
    """
    if len(labels) > 32 or any(len(text) > 100 for pair in labels.items() for text in pair):
        raise InvalidField("labels", "at most 32 labels of at most 100 characters", f"{len(labels)} labels")
