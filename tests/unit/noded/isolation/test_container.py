"""How containers are asked for, with a stand-in for the engine that writes down its calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.isolation import Engine, Isolation, ResourceLimits
from jupyterhub_agentfarm.models import LaunchSpec
from jupyterhub_agentfarm.noded.isolation import homes, minding
from jupyterhub_agentfarm.noded.isolation.container import Containers
from jupyterhub_agentfarm.noded.isolation.layers import Account, Launch

STAND_IN = Path(__file__).parents[3] / "recording_engine.py"
TOKEN = "s3cret"
Mind = Callable[..., subprocess.Popen[str]]
ENVIRONMENT = {
    "JUPYTERHUB_API_TOKEN": TOKEN,
    "PATH": "/of/the/node",
    "AGENTFARM_LEASE_ID": "l1",
    "AGENTFARM_NODED": "mark",
    "HOME": "/home/ada",
}


class Recorded:
    """A stand-in for both engines, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: dict[Engine, str] = {}
        for name in ("docker", "podman"):
            path = folder / name
            path.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
            path.chmod(0o755)
            self.programs[name] = str(path)  # type: ignore[index]

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Every call so far."""
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def words(self) -> list[str]:
        """The subcommands so far."""
        return [call["argv"][0] for call in self.calls]

    def let(self, **files: str) -> None:
        """Have it behave: ``fails_rm="text"``, ``answer_inspect="true"``, ``status="137"``."""
        for name, text in files.items():
            (self.folder / name.replace("_", "-", 1)).write_text(text)

    def containers(self) -> Containers:
        """What noded uses, once it has asked the engines."""
        found = Containers(self.programs)
        assert found.why_not() is None
        return found


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """The stand-in."""
    (tmp_path / "engine").mkdir()
    return Recorded(tmp_path / "engine")


def a_launch(engine: Engine = "docker", **changes: Any) -> Launch:
    """A launch for ada."""
    spec = LaunchSpec(
        "l1", 7, ("/opt/venv/bin/python", "-m", "server"), ENVIRONMENT, (), "127.0.0.1", "/", owner="ada",
        isolation=Isolation("{username}", sandbox="container", image="IMAGE", engine=engine),
        limits=changes.pop("limits", ResourceLimits()),
    )  # fmt: skip
    account = Account("ada", 1234, 1235, "/home/ada", "/bin/bash", (1235, 1300, 0))
    return replace(Launch(spec, account, ENVIRONMENT, Path("/run/agentfarm/l1"), "/home/ada/work"), **changes)


def options(launch: Launch, recorded: Recorded) -> list[str]:
    """The options of `run` before the image."""
    argv = recorded.containers().wrap(launch).argv
    return list(argv[argv.index("run") + 1 : argv.index("IMAGE")])


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_what_every_container_has(engine: Engine, recorded: Recorded) -> None:
    """Account, home, directory, labels, and nothing that makes it more than a process of that account."""
    given = options(a_launch(engine), recorded)
    assert given[:2] == ["--name", "agentfarm-l1"]
    assert {
        "--interactive", "--init", "--pull=never", "--restart=no", "--network=host", "--log-driver=none",
        "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=1234:1235", "--workdir=/home/ada/work",
        "--label=agentfarm.lease=l1", "--label=agentfarm.epoch=7", "--label=agentfarm.noded=mark",
        "--mount=type=bind,source=/home/ada,target=/home/ada",
        "--mount=type=bind,source=/run/agentfarm/l1,target=/run/agentfarm/l1",
        "--env=AGENTFARM_LEASE_ID=l1", "--env=AGENTFARM_NODED=mark", "--env=NVIDIA_VISIBLE_DEVICES=void",
    } <= set(given)  # fmt: skip
    assert not [word for word in given if word.startswith(("--privileged", "--gpus", "--device", "--memory", "--cpus"))]
    assert "--group-add=0" not in given
    assert ("--userns=keep-id" in given) == (engine == "podman" and os.geteuid() != 0)


def test_gpus_by_uuid(recorded: Recorded) -> None:
    """Docker's runtime and Podman's CDI are each told the leased UUIDs, and only those."""

    def leasing(engine: Engine, *gpus: str) -> Launch:
        return a_launch(engine, spec=replace(a_launch(engine).spec, gpus=gpus))

    both = ("GPU-aaaa", "GPU-sim-0", "GPU-bbbb")
    assert '--gpus="device=GPU-aaaa,GPU-bbbb"' in options(leasing("docker", *both), recorded)
    assert "--gpus=device=GPU-aaaa" in options(leasing("docker", "GPU-aaaa"), recorded)
    assert "--env=NVIDIA_VISIBLE_DEVICES=void" in options(leasing("docker", "GPU-sim-0"), recorded)
    given = options(leasing("podman", *both), recorded)
    assert [word for word in given if "nvidia" in word] == [
        "--device=nvidia.com/gpu=GPU-aaaa",
        "--device=nvidia.com/gpu=GPU-bbbb",
    ]


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_limits_are_the_engines(engine: Engine, recorded: Recorded) -> None:
    """Each limit is an option of its own, swap is none, and a limiter of noded's is not asked as well."""
    limits = ResourceLimits(memory_bytes=2**30, cpus=1.5, processes=100)
    wrapped = recorded.containers().wrap(a_launch(engine, limits=limits))
    assert {"--memory=1073741824", "--memory-swap=1073741824", "--cpus=1.5", "--pids-limit=101"} <= set(wrapped.argv)
    assert wrapped.limited
    assert not wrapped.as_account


def test_odd_paths_stay_paths(recorded: Recorded) -> None:
    """A comma in a home adds no option to the mount."""
    account = replace(a_launch().account, home="/home/a,readonly,source=/etc")
    given = options(a_launch(account=account), recorded)
    assert '--mount=type=bind,"source=/home/a,readonly,source=/etc","target=/home/a,readonly,source=/etc"' in given


def test_owners_that_share_an_account_have_homes_of_their_own(recorded: Recorded, tmp_path: Path) -> None:
    """On noded's own account a server does not get that account's home, where noded's socket and all keys are."""
    shared = replace(a_launch().account, home=str(tmp_path), own=True)
    directory = tmp_path / ".local/state/agentfarm/run/l1"
    given = options(a_launch(account=shared, directory=directory), recorded)
    home = tmp_path / homes.HOMES / "ada"
    assert [word for word in given if word.startswith("--mount")] == [
        f"--mount=type=bind,source={home},target={tmp_path}",
        f"--mount=type=bind,source={directory},target={directory}",
    ]
    # Else the engine, as root, would make the place that the directory is mounted at.
    assert (home / ".local/state/agentfarm/run/l1").is_dir()


def test_the_environment_is_on_no_command_line(recorded: Recorded) -> None:
    """It is in the minding process's own environment, less what is the node's and not the image's."""
    wrapped = recorded.containers().wrap(a_launch())
    assert TOKEN not in " ".join(wrapped.argv)
    inside = json.loads(wrapped.environment[minding.ENVIRONMENT])
    assert inside["JUPYTERHUB_API_TOKEN"] == TOKEN
    assert "PATH" not in inside
    assert wrapped.environment["PATH"] == os.environ["PATH"]


def test_no_server_is_root(recorded: Recorded) -> None:
    """Root in a container is root of the files that it is given."""
    with pytest.raises(LaunchFailed, match=r"would be root.*isolation\.account"):
        recorded.containers().wrap(a_launch(account=replace(a_launch().account, uid=0)))


def test_engines_that_do_not_answer_are_named(recorded: Recorded) -> None:
    """A node without any says why of each; one with the other one refuses with what it said."""
    assert Containers({}).why_not() == "docker is not installed; podman is not installed"
    recorded.let(fails_info="warning\nCannot connect to the daemon")
    only = Containers({"docker": recorded.programs["docker"]})
    assert only.why_not() == (
        "docker does not answer (Cannot connect to the daemon); podman is not installed"
    )  # fmt: skip
    (recorded.folder / "fails-info").unlink()
    assert only.why_not() is None
    with pytest.raises(LaunchFailed, match="podman is not installed"):
        only.wrap(a_launch("podman"))


def test_release_and_sweep_remove_by_lease(recorded: Recorded) -> None:
    """Release removes the lease's container; a sweep those of this noded's labels that no living server has."""
    recorded.let(answer_ps="l1\nl2\nl3\n")
    containers = Containers({"docker": recorded.programs["docker"]})
    assert containers.why_not() is None
    containers.release("l9")
    containers.sweep("mark", {"l2"})
    assert [call["argv"] for call in recorded.calls[1:]] == [
        ["rm", "--force", "agentfarm-l9"],
        ["ps", "--all", "--filter", "label=agentfarm.noded=mark", "--format", '{{.Label "agentfarm.lease"}}'],
        ["rm", "--force", "agentfarm-l1"],
        ["rm", "--force", "agentfarm-l3"],
    ]


# ---- minding ---------------------------------------------------------------------------------------------------


@pytest.fixture
def mind(recorded: Recorded) -> Mind:
    """Starts the minding process of a launch."""

    def start(**changes: Any) -> subprocess.Popen[str]:
        wrapped = recorded.containers().wrap(a_launch(**changes))
        return subprocess.Popen(
            wrapped.argv, env=dict(wrapped.environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def test_what_runs_in_the_container_has_the_environment(recorded: Recorded, mind: Mind) -> None:
    """It comes through stdin, is on top of the image's, and the client of the engine does not have it."""
    recorded.let(inside="")
    program = "import os,sys;print(os.environ['JUPYTERHUB_API_TOKEN'],os.environ['PATH'],sys.stdin.read()=='')"
    process = mind(spec=replace(a_launch().spec, command=(sys.executable, "-c", program)))
    output, _ = process.communicate(timeout=20)
    assert output.split()[0] == TOKEN
    assert output.split()[1].startswith(f"{Path(sys.executable).parent}:")
    assert output.split()[2] == "True"
    (run,) = (call for call in recorded.calls if call["argv"][0] == "run")
    assert TOKEN in run["stdin"]
    assert "JUPYTERHUB_API_TOKEN" not in run["environment"]
    assert minding.ENVIRONMENT not in run["environment"]
    assert recorded.words()[-2:] == ["run", "rm"]


@pytest.mark.parametrize(
    ("status", "killed", "expected"),
    [("0", "false", 0), ("3", "false", 3), ("143", "true", 143), ("137", "false", 137), ("137", "true", 250)],
)
def test_it_ends_as_the_container_ended(
    recorded: Recorded, mind: Mind, status: str, killed: str, expected: int
) -> None:
    """The status is passed on; a kill that the engine says was for memory has a status of its own."""
    recorded.let(status=status, answer_inspect=f"{killed}\n")
    process = mind()
    output, _ = process.communicate(timeout=20)
    assert process.returncode == expected
    assert ("reached its memory limit" in output) == (expected == 250)
    assert recorded.words()[-1] == "rm"


def until(file: Path) -> str:
    """A program that ends when there is a file."""
    return f"import os, time\nwhile not os.path.exists({str(file)!r}): time.sleep(0.02)"


async def test_a_signal_is_passed_on_once_there_is_a_container(recorded: Recorded, mind: Mind) -> None:
    """It is tried again until the engine takes it."""
    recorded.let(inside="", fails_kill="no such container")
    process = mind(spec=replace(a_launch().spec, command=(sys.executable, "-c", until(recorded.folder / "over"))))
    await eventually(lambda: "run" in recorded.words(), "it runs")
    process.send_signal(signal.SIGTERM)
    await eventually(lambda: recorded.words().count("kill") > 1, "it is tried again")
    (recorded.folder / "fails-kill").unlink()
    count = recorded.words().count("kill")
    await eventually(lambda: recorded.words().count("kill") > count, "it is taken")
    assert recorded.calls[-1]["argv"] == ["kill", "--signal", "SIGTERM", "agentfarm-l1"]
    recorded.let(over="")
    process.communicate(timeout=20)
    assert process.returncode == 0


async def test_a_signal_at_the_end_does_not_keep_it(recorded: Recorded, mind: Mind) -> None:
    """When the container ends by itself just as the signal comes, the minding process ends too."""
    recorded.let(inside="", fails_kill="no such container")
    process = mind(spec=replace(a_launch().spec, command=(sys.executable, "-c", until(recorded.folder / "over"))))
    await eventually(lambda: "run" in recorded.words(), "it runs")
    process.send_signal(signal.SIGTERM)
    await eventually(lambda: "kill" in recorded.words(), "it is tried")
    recorded.let(over="")
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_an_engine_that_came_later_is_found(recorded: Recorded) -> None:
    """A node whose engine was started after noded takes containers at the next launch."""
    recorded.let(fails_info="Cannot connect to the daemon")
    containers = Containers(recorded.programs)
    with pytest.raises(LaunchFailed, match="Cannot connect"):
        containers.wrap(a_launch())
    (recorded.folder / "fails-info").unlink()
    assert containers.wrap(a_launch()).limited
