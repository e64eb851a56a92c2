"""Nodes of the configuration: every mistake names its entry and field."""

from __future__ import annotations

import json
import string
from typing import Any

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets import TraitError
from traitlets.config import Config

from jupyterhub_agentfarm.errors import ConflictError, InvalidField
from jupyterhub_agentfarm.inventory import Inventory
from jupyterhub_agentfarm.inventory.declared import check_distinct, from_hosts, node_name, parse_nodes
from jupyterhub_agentfarm.models import NODE_NAME, NodeSpec
from jupyterhub_agentfarm.records import from_json, to_json

KEY = " ".join(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split()[:2])


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ([{"host": "h"}], "Inventory.nodes[0].name"),
        ([{"name": "n1", "host": "h"}, {"name": "n2"}], "Inventory.nodes[1].host"),
        ([{"name": "N1", "host": "h"}], "Inventory.nodes[0].name"),
        ([{"name": "n1", "host": "h", "port": 0}], "Inventory.nodes[0].port"),
        ([{"name": "n1", "host": "h", "port": "22"}], "Inventory.nodes[0].port"),
        ([{"name": "n1", "host": "h", "colour": 1}], "Inventory.nodes[0].colour"),
        ([{"name": "n1", "host": "h", "labels": {"room": 1}}], "Inventory.nodes[0].labels.room"),
        ([{"name": "n1", "host": "h", "host_key": "nonsense"}], "Inventory.nodes[0].host_key"),
        ([{"name": "n1", "host": "h", "noded_args": ["telemetry-interval=5"]}], "Inventory.nodes[0].noded_args"),
        ([{"name": "n1", "host": "h", "noded_args": ["--stop"]}], "Inventory.nodes[0].noded_args"),
        ([{"name": "n1", "host": "h", "noded_args": ["--state-dir=/s"]}], "Inventory.nodes[0].noded_args"),
        ([{"name": "n1", "host": "h"}] * 2, "Inventory.nodes[1].name"),
    ],
)
def test_a_mistake_names_entry_and_field(entries: list[dict[str, Any]], field: str) -> None:
    """The configuration's loader raises a TraitError that begins with the entry and the field."""
    with pytest.raises(TraitError) as caught:
        Inventory(config=Config(Inventory={"nodes": entries}))
    assert str(caught.value).startswith(f"{field} must be ")


def test_good_entries_become_specs() -> None:
    """Every field may be given; ports and noded's options may be lists."""
    options = ["--telemetry-interval=5", "--NodedApp.mountpoints=/data"]
    given = {"name": "n1", "host": "h", "host_key": KEY, "port_range": [40000, 40999], "noded_args": options}
    (spec,) = parse_nodes([given])
    assert spec.noded_args == tuple(options)
    assert spec.host_key == KEY
    assert spec.port_range == (40000, 40999)


def test_hosts_of_sshspawner_become_nodes() -> None:
    """A configuration of sshspawner gives nodes with names from the hosts, all with the one key."""
    config = Config(SSHSpawner={"remote_hosts": ["GPU01.a.org", "gpu01.b.org", "10.0.0.5", "fe80::1"]})
    inventory = Inventory(config=config, ssh_keyfile="/etc/farm/id")
    specs = from_hosts(inventory.remote_hosts, inventory.ssh_keyfile, ["other"])
    assert [spec.name for spec in specs] == ["gpu01", "gpu01-b-org", "node-10-0-0-5", "node-fe80-1"]
    assert {spec.ssh_keyfile for spec in specs} == {"/etc/farm/id"}


def test_hosts_that_cannot_be_used_are_named() -> None:
    """An empty host and one that is listed twice are refused by their index."""
    with pytest.raises(InvalidField, match=r"Inventory\.remote_hosts\[1\]"):
        from_hosts(["h", ""], None, [])
    with pytest.raises(InvalidField, match=r"Inventory\.remote_hosts\[1\] must be a host that is listed once"):
        from_hosts(["h", "h"], None, [])


def test_one_key_for_each_user_is_refused() -> None:
    """Sshspawner's key template is refused with what is wanted."""
    with pytest.raises(TraitError, match=r"Inventory\.ssh_keyfile must be one private key"):
        Inventory(ssh_keyfile="/keys/{username}.key")


def test_the_same_machine_is_not_added_twice() -> None:
    """Another name for the same host, port and state directory is refused and names the node that has it."""
    first = NodeSpec("n1", "h")
    with pytest.raises(ConflictError, match="as node n1"):
        check_distinct(NodeSpec("n2", "h"), [first])
    check_distinct(NodeSpec("n2", "h", port=2222), [first])


@given(st.text(string.ascii_letters + string.digits + ".-_:", min_size=1, max_size=80).filter(str.isalnum))
def test_every_host_gives_a_name(host: str) -> None:
    """Whatever the host, its generated name can name a node."""
    assert NODE_NAME.fullmatch(node_name(host))


_text = st.text(max_size=20)
_host = st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9-]{1,9}){0,2}", fullmatch=True)
_names = st.from_regex(NODE_NAME, fullmatch=True)
_ports = st.integers(1, 65535)
specs = st.builds(
    NodeSpec,
    name=_names,
    host=_host,
    port=_ports,
    user=st.none() | _text,
    role=st.sampled_from(["microserver", "gpuserver"]),
    labels=st.dictionaries(_text, _text, max_size=4),
    address=st.none() | _host,
    ssh_keyfile=st.none() | _text,
    python=_text,
    server_python=st.none() | _text,
    state_dir=st.none() | _text,
    simulated_gpus=st.integers(0, 16),
    port_range=st.none() | st.tuples(_ports, _ports).map(sorted).map(tuple),
)


@given(specs)
def test_a_spec_survives_json(spec: NodeSpec) -> None:
    """What the store writes it reads back as the same spec, through real JSON text."""
    assert from_json(NodeSpec, json.loads(json.dumps(to_json(spec)))) == spec


@pytest.mark.parametrize("host", ["10.0.0.11", "::1", "fe80::1%eth0", "gpu_01.farm.example", "a." * 100 + "b", "a.b."])
def test_a_host_that_can_be_asked_for(host: str) -> None:
    """Names of the DNS and addresses of both kinds are hosts."""
    assert NodeSpec("a", host, address=host).host == host


@pytest.mark.parametrize("host", ["", "a\0b", "a b", "a..b", "-a", "a" * 64, "ü", "a;b", "a." * 127 + "b", "a\n"])
def test_a_host_that_cannot_even_be_asked_for(host: str) -> None:
    """What a resolver answers with a fault of its own is refused when the node is declared, not for ever after."""
    with pytest.raises(InvalidField, match=r"^host must be a host name or an IP address"):
        NodeSpec("a", host)
    with pytest.raises(InvalidField, match=r"^address must be"):
        NodeSpec("a", "h", address=host)
