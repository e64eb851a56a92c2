"""Servers in containers of a real Docker engine, started by a real noded."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import container_image
import pytest
from noded_process import NodedError, NodedProcess, connect, running_noded
from waiting import eventually

from .conftest import Pair

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.geteuid() != 0, reason="a noded that is not root has no accounts for containers"),
]

SECRET = "s3cret-of-ada"
#: Answers with a variable of its environment, or with what an expression of it is.
SERVER = """
import os, socket, sys
from urllib.parse import urlsplit
url = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
listener = socket.create_server((url.hostname, url.port))
print("serving", flush=True)
while True:
    peer, _ = listener.accept()
    try:
        answer = str(eval(peer.recv(1000).decode()))
    except Exception as exc:
        answer = repr(exc)
    peer.sendall(answer.encode())
    peer.close()
"""


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """An image with a Python."""
    name = container_image.build(f"agentfarm-test-{secrets.token_hex(4)}:latest")
    yield name
    container_image.remove(name)


@pytest.fixture
async def noded() -> AsyncIterator[NodedProcess]:
    """A noded that runs as root, with a simulated GPU."""
    async with running_noded(simulated_gpus=1) as process:
        yield process


def docker(*words: str) -> str:
    """Return what the engine's client prints."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=30).stdout


def containers(lease: str, *, every: bool = True) -> list[str]:
    """Return the containers of a lease."""
    return docker("ps", "-q", *(["--all"] if every else []), "--filter", f"label=agentfarm.lease={lease}").split()


def ask(status: dict[str, Any], expression: str) -> str:
    """Return what an expression is in the server."""
    with socket.create_connection((status["address"], status["port"]), 10) as peer:
        peer.sendall(expression.encode())
        return peer.makefile().read()


async def launch(noded: NodedProcess, image: str, owner: str, program: str = SERVER, **changes: Any) -> dict[str, Any]:
    """Launch a server of `owner` in a container."""
    isolation = {"account": "{username}", "sandbox": "container", "image": image, "engine": "docker"}
    spec: dict[str, Any] = {
        "command": ["/usr/bin/python3", "-u", "-c", program],
        "environment": {"JUPYTERHUB_API_TOKEN": SECRET},
        "files": {"key.pem": "the key"},
        "owner": owner,
        "isolation": isolation,
    }
    return await noded.launch(f"c{secrets.token_hex(8)}", **(spec | changes))


async def stop(noded: NodedProcess, status: dict[str, Any], grace_seconds: float = 10) -> dict[str, Any]:
    """Stop a server."""
    result = await noded.call("stop", {"lease": status["lease"], "grace_seconds": grace_seconds}, timeout=40)
    assert isinstance(result, dict)
    return result


async def test_a_server_in_a_container_from_start_to_stop(noded: NodedProcess, image: str, pair: Pair) -> None:
    """It has its account, home, directory, environment and nothing of the node's; its stop leaves nothing."""
    gpu = (await noded.call("telemetry"))["gpus"][0]["uuid"]
    status = await launch(noded, image, pair.ada, gpus=[gpu])
    assert status["state"] == "running"
    assert ask(status, "os.environ['JUPYTERHUB_API_TOKEN']") == SECRET
    assert ask(status, "(os.getuid(), os.path.expanduser('~'), os.getcwd())") == str(
        (pair.uid(pair.ada), f"/home/{pair.ada}", f"/home/{pair.ada}")
    )
    assert ask(status, "os.environ['CUDA_VISIBLE_DEVICES']") == gpu
    assert ask(status, "open(os.environ['AGENTFARM_SERVER_DIR'] + '/key.pem').read()") == "the key"
    assert ask(status, "os.environ['PATH']").startswith("/usr/bin:")
    assert ask(status, "os.path.exists('/work'), os.path.exists('/var/log'), os.listdir('/home')") == str(
        (False, False, [pair.ada])
    )
    assert "serving" in (await noded.call("logs", {"lease": status["lease"], "lines": 5}))["text"]
    directory = Path(ask(status, "os.environ['AGENTFARM_SERVER_DIR']"))
    assert await stop(noded, status) == {"gone": True, "gpus_free": True}
    assert containers(status["lease"]) == []
    assert not directory.exists()  # noqa: ASYNC240
    exited = await eventually(lambda: noded.client and noded.client.exits, "the exit is told")
    assert exited[0]["exit"]["cause"] == "stopped"


async def test_the_engine_knows_no_secret(noded: NodedProcess, image: str, pair: Pair) -> None:
    """Neither inspect, nor the container's log, nor a command line on the node, has what the environment has."""
    status = await launch(noded, image, pair.ada)
    (container,) = containers(status["lease"])
    inspected = docker("inspect", container)
    assert SECRET not in inspected
    config = json.loads(inspected)[0]
    names = {line.split("=")[0] for line in config["Config"]["Env"]}
    assert names - {"PATH"} == {"AGENTFARM_LEASE_ID", "AGENTFARM_NODED", "NVIDIA_VISIBLE_DEVICES"}
    assert config["Config"]["Labels"]["agentfarm.lease"] == status["lease"]
    assert config["HostConfig"]["RestartPolicy"]["Name"] == "no"
    for folder in Path("/proc").iterdir():  # noqa: ASYNC240
        if folder.name.isdigit():
            with suppress(OSError):
                assert SECRET.encode() not in (folder / "cmdline").read_bytes()
    for path in Path(docker("info", "--format", "{{.DockerRootDir}}").strip(), "containers").glob("*/*"):  # noqa: ASYNC240
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes()
    await stop(noded, status)


async def test_limits_hold_and_the_end_says_memory(noded: NodedProcess, image: str, pair: Pair) -> None:
    """A server that takes too much is killed, with that as the cause; another one goes on."""
    other = await launch(noded, image, pair.bob)
    limits = {"memory_bytes": 64 * 2**20, "cpus": 0.5, "processes": 10}
    status = await launch(noded, image, pair.ada, limits=limits)
    (container,) = containers(status["lease"])
    host = json.loads(docker("inspect", container))[0]["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 * 2**20, 5 * 10**8, 11)
    assert "Error" in ask(status, "[__import__('threading').Thread(target=__import__('time').sleep, args=(60,)).start()"
                          " for _ in range(20)]")  # fmt: skip
    with suppress(ConnectionError):
        ask(status, "len(bytearray(200 * 2**20))")
    ended = await eventually(lambda: noded.client and noded.client.exits, "the exit is told", timeout=30)
    assert ended[0]["lease"] == status["lease"]
    assert ended[0]["exit"]["cause"] == "oom"
    log = (await noded.call("logs", {"lease": status["lease"], "lines": 50}))["text"]
    assert "reached its memory limit" in log
    assert ask(other, "1 + 1") == "2"
    await eventually(lambda: not containers(status["lease"]), "the container is removed")
    await stop(noded, other)


async def test_exit_status_and_signal_are_the_containers(noded: NodedProcess, image: str, pair: Pair) -> None:
    """What the server ended with is what is told."""
    for program, cause, value in (("os._exit(3)", "exited", 3), ("os.kill(os.getpid(), 11)", "signal", 11)):
        status = await launch(noded, image, pair.ada)
        with suppress(ConnectionError):
            ask(status, program)
        told = await eventually(
            lambda lease=status["lease"]: [e for e in noded.client.exits if e["lease"] == lease],  # type: ignore[union-attr]
            "the exit is told",
            timeout=20,
        )
        assert told[0]["exit"]["cause"] == cause
        assert value in (told[0]["exit"]["code"], told[0]["exit"]["signal"])


async def test_a_server_that_ignores_the_signal_is_killed_with_its_container(
    noded: NodedProcess, image: str, pair: Pair
) -> None:
    """After the grace everything of the container is gone, also what hides in a session of its own."""
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    status = await launch(noded, image, pair.ada, stubborn)
    hidden = "__import__('subprocess').Popen(['/usr/bin/python3', '-c', 'import time; time.sleep(600)'],"
    ask(status, f"{hidden} start_new_session=True, env={{}}).pid")
    assert len(docker("top", containers(status["lease"])[0]).splitlines()) >= 3
    assert (await stop(noded, status, grace_seconds=0.5))["gone"]
    assert containers(status["lease"]) == []


async def test_a_new_noded_adopts_the_container(noded: NodedProcess, image: str, pair: Pair) -> None:
    """The server goes on while noded is replaced, and can be stopped by the new one."""
    status = await launch(noded, image, pair.ada)
    await noded.end()
    assert ask(status, "2 * 3") == "6"
    await noded.start()
    client = await connect(noded.socket, subscribe=False)
    (adopted,) = (await client.call("servers"))["servers"]
    assert (adopted["lease"], adopted["state"], adopted["pid"]) == (status["lease"], "running", status["pid"])
    await client.close()
    assert (await stop(noded, status))["gone"]
    assert containers(status["lease"]) == []


async def test_a_container_whose_minder_was_killed_is_ended(noded: NodedProcess, image: str, pair: Pair) -> None:
    """When the process that minds it is killed, the container is ended too, and the exit told."""
    status = await launch(noded, image, pair.ada)
    os.kill(status["pid"], 9)
    await eventually(lambda: noded.client and noded.client.exits, "the exit is told")
    await eventually(lambda: not containers(status["lease"]), "the container is removed", timeout=20)


async def test_a_container_that_nobody_knows_is_removed(noded: NodedProcess, image: str, pair: Pair) -> None:
    """What is left of a server without a record goes when noded starts."""
    status = await launch(noded, image, pair.ada)
    mark = ask(status, "os.environ['AGENTFARM_NODED']")
    await stop(noded, status)
    await noded.end()
    label, strange = f"agentfarm.noded={mark}", f"agentfarm.lease=x{secrets.token_hex(4)}"
    other = docker("create", "--label", "agentfarm.noded=another", "--label", strange, image, "true").strip()
    lost = docker("create", "--label", label, "--label", "agentfarm.lease=lost1", "--name", "agentfarm-lost1",
                  image, "true").strip()  # fmt: skip
    assert lost
    await noded.start()
    await eventually(lambda: not containers("lost1"), "it is removed", timeout=20)
    assert containers(strange.split("=")[1]) == [other[:12]]
    docker("rm", "--force", other)


async def test_a_missing_image_is_the_reason(noded: NodedProcess, pair: Pair) -> None:
    """Nothing is pulled: the launch fails at once with what the engine says."""
    with pytest.raises(NodedError) as caught:
        await launch(noded, "agentfarm-no-such-image:latest", pair.ada)
    assert caught.value.reason == "launch_failed"
    assert "no such image" in caught.value.facts["log_tail"].lower()
