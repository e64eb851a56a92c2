"""``agentfarm nodes``: what it writes, asks and refuses."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from jupyterhub_agentfarm import __version__
from jupyterhub_agentfarm.cli.enrol import AddNode, split_address
from jupyterhub_agentfarm.errors import InvalidField

FINGERPRINT = "SHA256:Zm9ydHktdHdvIGlzIHRoZSBhbnN3ZXI"
ADD = ("nodes", "add", "micro-4", "10.0.0.4:2222")


@pytest.fixture
def three(controller: Any, node_view: Any) -> Any:
    """Give a farm of a ready, a cordoned and an unreachable node."""
    controller.nodes = {
        "a": node_view("a"),
        "b": node_view("b", status="cordoned", cordon={"reason": "new disk", "at": 0.0, "by": "ada"}, telemetry=None),
        "c": node_view("c", status="unreachable", state="unreachable", detail="no route", telemetry=None, facts=None),
    }
    controller.nodes["a"]["telemetry"]["gpus"][0] |= {"leased": True, "owner": "bob", "simulated": True}
    return controller


async def test_list_as_text(three: Any, agentfarm: Any) -> None:
    """Elsewhere than on a terminal the list is aligned columns; unknown is "-", simulated is said."""
    ended = await agentfarm("nodes", "list")
    assert ended.out == (
        "NAME  STATUS       ROLE         ADDRESS        CPU  LOAD  MEMORY FREE  GPUS LEASED    SINCE  DETAIL\n"
        "a     ready        microserver  farm@10.0.0.1  25%  1.00  12G of 16G   1/1 simulated  5m\n"
        "b     cordoned     microserver  farm@10.0.0.1  -    -     -            -              5m     new disk (ada)\n"
        "c     unreachable  microserver  farm@10.0.0.1  -    -     -            -              5m     no route\n"
    )
    assert (ended.status, ended.err) == (0, "")


async def test_list_as_json(three: Any, agentfarm: Any) -> None:
    """With --json the controller's answer goes out whole, and nothing else."""
    ended = await agentfarm("nodes", "list", "--json")
    assert json.loads(ended.out) == {"nodes": list(three.nodes.values())}
    assert (ended.status, ended.err) == (0, "")


async def test_list_of_nothing(controller: Any, agentfarm: Any) -> None:
    """An empty farm is said on stderr: there is no data."""
    ended = await agentfarm("nodes", "list")
    assert (ended.status, ended.out) == (0, "")
    assert ended.err == "There are no nodes yet: add one with `agentfarm nodes add`.\n"


async def test_control_characters_do_not_reach_the_terminal(three: Any, agentfarm: Any) -> None:
    """What a node says of itself cannot steer the terminal."""
    three.nodes["c"]["detail"] = "\x1b]0;owned\x07"
    assert "\\x1b]0;owned\\x07" in (await agentfarm("nodes", "list")).out


async def test_show(three: Any, agentfarm: Any) -> None:
    """One node is shown with everything known, and its GPUs."""
    ended = await agentfarm("nodes", "show", "a")
    assert ended.out == (
        "name:         a\n"
        "status:       ready for 5m\n"
        "detail:       -\n"
        "role:         microserver\n"
        "labels:       -\n"
        "address:      farm@10.0.0.1\n"
        "host key:     ssh-ed25519 AAAA\n"
        "from:         the configuration\n"
        "noded:        0.1.0\n"
        "python:       3.11.2\n"
        "system:       Debian 12 x86_64\n"
        "isolation:    -\n"
        "starts:       -\n"
        "uptime:       2h\n"
        "clock:        -0.10s against the controller\n"
        "cpus:         8\n"
        "load:         1.00 0.50 0.25\n"
        "memory free:  12G of 16G\n"
        "disk free:    / 50G of 100G\n"
        "gpu health:   ok\n"
        "kernels:      ir (R), python3 (python)\n"
        "\n"
        "GPU    NAME  USED  MEMORY       POWER  TEMPERATURE  LEASED TO\n"
        "GPU-1  A100  50%   1.0G of 40G  70W    41°C         bob        simulated\n"
    )


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"kernels": None}, "-"),
        ({"kernels": None, "kernels_error": "no Python there"}, "- (it could not be asked lately: no Python there)"),
        ({"kernels": []}, "none"),
    ],
)
async def test_kernels_that_are_not_known(three: Any, agentfarm: Any, changes: Any, shown: str) -> None:
    """A node that has not told its kernels is not one without any."""
    three.nodes["a"] |= changes
    assert f"kernels:      {shown}\n" in (await agentfarm("nodes", "show", "a")).out


async def test_show_of_an_unknown_node(controller: Any, agentfarm: Any) -> None:
    """The controller's refusal is one sentence and status 1."""
    ended = await agentfarm("nodes", "show", "x")
    assert (ended.status, ended.out, ended.err) == (1, "", "agentfarm: there is no node 'x'\n")


async def test_cordon_drain_uncordon(three: Any, agentfarm: Any) -> None:
    """Reason and deadline reach the controller; the deadline is written with a unit."""
    cordoned = await agentfarm("nodes", "cordon", "a", "--reason", "new disk")
    drained = await agentfarm("nodes", "drain", "a", "--reason=move", "--deadline", "15m")
    back = await agentfarm("nodes", "uncordon", "a")
    assert three.asked == [
        ("POST", "nodes/a/cordon", {"reason": "new disk"}),
        ("POST", "nodes/a/drain", {"reason": "move", "deadline_seconds": 900.0}),
        ("POST", "nodes/a/uncordon", {}),
    ]
    assert [cordoned.out, drained.out, back.out] == [
        "a is cordoned: it takes no new servers.\n",
        "a is draining.\n",
        "a is ready.\n",
    ]


async def test_restart_noded(three: Any, agentfarm: Any) -> None:
    """The controller is asked to, and the version that runs then is said; a node that is not back is said too."""
    ended = await agentfarm("nodes", "restart-noded", "a")
    away = await agentfarm("nodes", "restart-noded", "c")
    assert three.asked == [("POST", "nodes/a/restart-noded", {}), ("POST", "nodes/c/restart-noded", {})]
    assert ended.out == f"noded on a was started anew (version {__version__}); servers went on.\n"
    assert away.out == "noded on c was started anew (the node is unreachable: no route); servers went on.\n"


async def test_drain_waits(three: Any, agentfarm: Any) -> None:
    """With --wait the command ends when the node holds no lease."""
    ended = await agentfarm("nodes", "drain", "a", "--wait")
    assert (ended.status, ended.out) == (0, "a is drained: it is empty.\n")
    assert ended.err == "draining a: 0/0 0 servers left\n"


async def test_remove_is_refused(three: Any, agentfarm: Any) -> None:
    """A node of the configuration stays."""
    ended = await agentfarm("nodes", "remove", "a")
    assert (ended.status, ended.out, ended.err) == (1, "", "agentfarm: a is in the configuration\n")
    assert "a" in three.nodes


async def test_add_with_the_right_fingerprint(controller: Any, agentfarm: Any) -> None:
    """Options may stand anywhere; the node is added with the scanned key and waited for."""
    ended = await agentfarm(*ADD[:3], "--label", "room=b", ADD[3], "--role=gpuserver", "--label", "disk=nvme",
                            "--fingerprint", FINGERPRINT)  # fmt: skip
    assert (ended.status, ended.out) == (0, "micro-4 is ready.\n")
    spec = controller.nodes["micro-4"]["spec"]
    assert (spec["host"], spec["port"], spec["role"]) == ("10.0.0.4", 2222, "gpuserver")
    assert (spec["labels"], spec["host_key"]) == ({"room": "b", "disk": "nvme"}, "ssh-ed25519 AAAA")


async def test_add_with_ports_and_options_of_noded(controller: Any, agentfarm: Any) -> None:
    """The range of ports and each option for noded reach the node's record, in their order."""
    options = [
        "--noded-arg=--telemetry-interval=5",
        "--port-range",
        "40000-40999",
        "--noded-arg=--NodedApp.mountpoints=/",
    ]
    ended = await agentfarm(*ADD, "--fingerprint", FINGERPRINT, *options)
    assert (ended.status, ended.err.endswith("ready\n")) == (0, True)
    spec = controller.nodes["micro-4"]["spec"]
    assert spec["port_range"] == [40000, 40999]
    assert spec["noded_args"] == ["--telemetry-interval=5", "--NodedApp.mountpoints=/"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--port-range=40000", "--port-range must be the first and the last port, as in 40000-40999, not '40000'"),
        ("--port-range=4-3", "port_range must be the first and the last port, as in [40000, 40999], not (4, 3)"),
        ("--noded-arg=--state-dir=/srv", "noded_args must be options of noded"),
    ],
)
async def test_add_refuses_ports_and_options(controller: Any, agentfarm: Any, option: str, message: str) -> None:
    """What is no range of ports, or no option for noded, is refused before the network is touched."""
    ended = await agentfarm(*ADD, option)
    assert (ended.status, controller.asked) == (1, [])
    assert ended.err.startswith(f"agentfarm: {message}")


def test_add_says_where_servers_listen_without_an_address() -> None:
    """The help names the default that a launch has: first the address of the SSH connection, then HOST."""
    assert "the address that the SSH connection goes to, or HOST" in AddNode.address.help


async def test_add_with_another_fingerprint(controller: Any, agentfarm: Any) -> None:
    """Another key than the one named is refused, and nothing is added."""
    ended = await agentfarm(*ADD, "--fingerprint", "SHA256:other")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == (
        f"agentfarm: 10.0.0.4:2222 has the host key {FINGERPRINT}, not SHA256:other: "
        "do not add it before you know why (another machine, or somebody in between)\n"
    )
    assert controller.nodes == {}


async def test_add_without_anybody_to_ask(controller: Any, agentfarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can compare, the node is not added; the sentence says how."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    ended = await agentfarm(*ADD)
    assert ended.status == 1
    assert f"add `--fingerprint {FINGERPRINT}` when that is what `ssh-keygen -lf` prints" in ended.err
    assert controller.nodes == {}


@pytest.mark.parametrize(("answer", "added"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
async def test_add_asks(
    controller: Any, agentfarm: Any, monkeypatch: pytest.MonkeyPatch, answer: str, added: bool
) -> None:
    """On a terminal only a yes adds the node."""

    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return answer

    monkeypatch.setattr("sys.stdin", Terminal())
    ended = await agentfarm(*ADD)
    assert ended.err.startswith(
        f"The host key of 10.0.0.4:2222 has the fingerprint {FINGERPRINT}.\nIs this the node's fingerprint? [y/N] "
    )
    assert (ended.status == 0, "micro-4" in controller.nodes) == (added, added)


async def test_add_says_why_it_is_not_ready(controller: Any, agentfarm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stays unreachable is reported with its detail and what to do."""
    controller.added_state = "unreachable"
    monkeypatch.setattr("jupyterhub_agentfarm.cli.enrol._READY_SECONDS", 0.1)
    ended = await agentfarm(*ADD, "--fingerprint", FINGERPRINT)
    assert ended.status == 1
    assert ended.err.endswith(
        "agentfarm: micro-4 was added but is unreachable after 0.1 s (python3: not found): "
        "mend that and it comes by itself, or run `agentfarm nodes remove micro-4`\n"
    )


async def test_add_refuses_a_bad_name_before_it_asks(controller: Any, agentfarm: Any) -> None:
    """A field that no node can have is refused before the network is touched."""
    ended = await agentfarm("nodes", "add", "Micro_4", "10.0.0.4")
    assert ended.err == ("agentfarm: name must be 1-63 lower-case letters, digits and inner hyphens, not 'Micro_4'\n")
    assert controller.asked == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("gpu1", ("gpu1", 22)),
        ("gpu1:2222", ("gpu1", 2222)),
        ("fe80::1", ("fe80::1", 22)),
        ("[fe80::1]:2222", ("fe80::1", 2222)),
        ("[fe80::1]", ("fe80::1", 22)),
    ],
)
def test_addresses(text: str, wanted: tuple[str, int]) -> None:
    """A port is optional, and IPv6 addresses may come bare or in brackets."""
    assert split_address(text) == wanted


@pytest.mark.parametrize("text", ["", "gpu1:", "gpu1:0", "gpu1:65536", "gpu1:ssh", "a b", "[fe80::1", "[]:22"])
def test_no_addresses(text: str) -> None:
    """What is no address is refused by name."""
    with pytest.raises(InvalidField, match=r"^HOST\[:PORT\] must be"):
        split_address(text)
