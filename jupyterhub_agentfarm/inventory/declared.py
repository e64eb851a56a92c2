"""Nodes as the configuration declares them: dictionaries and host names in, checked specs out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jupyterhub_agentfarm.errors import ConflictError, InvalidField
from jupyterhub_agentfarm.models import NodeSpec
from jupyterhub_agentfarm.records import from_json
from jupyterhub_agentfarm.transport.host_key import parse_host_key


def check_spec(spec: NodeSpec, where: str = "") -> NodeSpec:
    """Return `spec` when its host key is one.

    Raises
    ------
    InvalidField
        It is not; the error names the field below `where`.
    """
    if spec.host_key is not None:
        parse_host_key(spec.host_key, f"{where}.host_key" if where else "host_key")
    return spec


def parse_nodes(entries: Sequence[object], where: str = "Inventory.nodes") -> tuple[NodeSpec, ...]:
    """Return the specs of a list of dictionaries.

    Raises
    ------
    InvalidField
        A field has the wrong form, or a name is there twice; the error names the entry and the field.
    """
    specs: dict[str, NodeSpec] = {}
    for index, entry in enumerate(entries):
        place = f"{where}[{index}]"
        spec = _parse_node(entry, place)
        if spec.name in specs:
            raise InvalidField(f"{place}.name", "a name that no other node has", spec.name)
        specs[spec.name] = spec
    return tuple(specs.values())


def _parse_node(entry: object, place: str) -> NodeSpec:
    data = dict(entry) if isinstance(entry, Mapping) else entry
    try:
        return check_spec(from_json(NodeSpec, data, place), place)
    except InvalidField as exc:
        if exc.field.startswith(place):
            raise
        # A check of the record itself knows the field, not the entry.
        raise InvalidField(f"{place}.{exc.field}", exc.wanted, exc.got) from exc


def node_name(host: str) -> str:
    """Return a name for the node at `host`: the first part of a host name, all of an address.

    >>> node_name("GPU01.example.org"), node_name("10.0.0.5")
    ('gpu01', 'node-10-0-0-5')
    """
    if re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]*:[0-9a-fA-F:.]*", host):
        return f"node-{_hyphened(host)}"
    return _hyphened(host.partition(".")[0])


def _hyphened(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-")


def from_hosts(hosts: Iterable[str], ssh_keyfile: str | None, taken: Iterable[str]) -> tuple[NodeSpec, ...]:
    """Return a node for each host, as a configuration of sshspawner lists them.

    Parameters
    ----------
    hosts
        Host names or addresses.
    ssh_keyfile
        Private key to log in to all of them with.
    taken
        Names that other nodes have.

    Raises
    ------
    InvalidField
        A host is empty.
    """
    names, specs = set(taken), []
    for index, host in enumerate(hosts):
        if not _hyphened(host):
            raise InvalidField(f"Inventory.remote_hosts[{index}]", "a host name or an address", host)
        # Hosts of the same name in two domains are told apart by all of it.
        name = node_name(host) if node_name(host) not in names else _hyphened(host)
        if name in names:
            raise InvalidField(f"Inventory.remote_hosts[{index}]", "a host that is listed once", host)
        names.add(name)
        specs.append(NodeSpec(name=name, host=host, ssh_keyfile=ssh_keyfile))
    return tuple(specs)


def check_distinct(spec: NodeSpec, others: Iterable[NodeSpec]) -> None:
    """Refuse a second name for the same machine: its GPUs would be counted twice.

    Raises
    ------
    ConflictError
        A node with this name, or with this host, port and state directory, is there.
    """
    for other in others:
        if other.name == spec.name:
            raise ConflictError(f"there is a node {spec.name} already: choose another name, or remove that one first")
        if _place(other) == _place(spec):
            raise ConflictError(f"{spec.host}:{spec.port} is in the farm already, as node {other.name}")


def _place(spec: NodeSpec) -> tuple[Any, ...]:
    return spec.host, spec.port, spec.user, spec.state_dir
