"""How the command is called: help, mistakes, ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from waiting import eventually

from jupyterhub_agentfarm.cli.app import AgentFarm
from jupyterhub_agentfarm.terminal.parsing import Parsed

CLI = [sys.executable, "-m", "jupyterhub_agentfarm.cli"]


def _modules_after(argv: list[str]) -> set[str]:
    code = (
        "import json, sys\n"
        "from jupyterhub_agentfarm.cli import main\n"
        f"main({argv!r})\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("argv", [["--help"], ["nodes", "add", "--help"], ["demo", "--help"], ["--version"]])
def test_help_imports_little(argv: list[str]) -> None:
    """Help needs none of the packages that take long to import, and none of the Hub's."""
    heavy = {"asyncssh", "sqlalchemy", "jupyterhub", "tornado", "aiohttp", "rich", "matplotlib"}
    assert not heavy & _modules_after(argv)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The help names each command with its purpose."""
    from jupyterhub_agentfarm.cli import main

    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: agentfarm COMMAND [OPTIONS]\n\nA farm of plain GPU machines behind JupyterHub.\n")
    for name, (_, purpose) in AgentFarm.subcommands.items():
        assert f"  {name:<10}  {purpose}\n" in out


def _commands(cls: type[Parsed] = AgentFarm, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    from traitlets.utils.importstring import import_item

    found = []
    for name, (target, _) in cls.subcommands.items():
        child = import_item(target)
        found.append((*path, name))
        if issubclass(child, Parsed):
            found += _commands(child, (*path, name))
    return found


@pytest.mark.parametrize("path", _commands(), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command that is listed can be imported and explains itself."""
    from jupyterhub_agentfarm.cli import main

    assert main([*path, "--help"]) == 0
    out = capsys.readouterr().out
    if path not in {("noded",), ("controller",)}:  # plain traitlets applications
        assert out.startswith(f"usage: agentfarm {' '.join(path)}")
        assert "-h, --help" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["frob"], ("there is no command 'frob': use one of demo, nodes, ca, leases, queue, quota, agents, tasks, "
                   "benchmark, doctor, controller, noded (see `agentfarm --help`)")),
        (["nodes"], ("give one of list, show, add, remove, cordon, uncordon, drain, restart-noded "
                     "(see `agentfarm nodes --help`)")),
        (["nodes", "list", "--bogus", "1"], "there is no option --bogus (see `agentfarm nodes list --help`)"),
        (["nodes", "list", "--bogus"], "there is no option --bogus (see `agentfarm nodes list --help`)"),
        (["nodes", "list", "-x"], "there is no option -x (see `agentfarm nodes list --help`)"),
        (["nodes", "list", "--url"], "--url needs a value (see `agentfarm nodes list --help`)"),
        (["nodes", "show"], "NAME is missing (see `agentfarm nodes show --help`)"),
        (["nodes", "show", "a", "b"], "'b' is one argument too many (see `agentfarm nodes show --help`)"),
        (["nodes", "add", "a"], "HOST[:PORT] is missing (see `agentfarm nodes add --help`)"),
        (["nodes", "drain", "a", "--deadline", "soon"], ("--deadline must be a duration in seconds, or a string with a "
         "unit such as '500ms', '15m' or '4h', not 'soon' (see `agentfarm nodes drain --help`)")),
        (["nodes", "add", "a", "b", "--simulated-gpus=x"], ("--simulated-gpus must be a whole number, not 'x' "
         "(see `agentfarm nodes add --help`)")),
        (["nodes", "add", "a", "b", "--label", "x"], ("--label must be key=value, not ['x'] "
         "(see `agentfarm nodes add --help`)")),
    ],
)  # fmt: skip
def test_mistakes(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is one sentence with a hint, and status 2."""
    from jupyterhub_agentfarm.cli import main

    assert main(argv) == 2
    assert capsys.readouterr() == ("", f"agentfarm: {message}\n")


async def test_no_farm(agentfarm: Any, runtime_dir: Path) -> None:
    """Without a farm the sentence says what to start or name."""
    ended = await agentfarm("nodes", "list")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == (
        f"agentfarm: no agentfarm service is known in {runtime_dir}: start the Hub, or name its directory with "
        "--runtime-dir\n"
    )


async def test_the_local_token_is_not_sent_elsewhere(agentfarm: Any, controller: Any) -> None:
    """With --url a token of one's own is needed; this machine's secret stays here."""
    ended = await agentfarm("nodes", "list", "--url", "http://127.0.0.1:1/")
    assert (ended.status, controller.asked) == (1, [])
    assert "--url needs a Hub token in $JUPYTERHUB_API_TOKEN" in ended.err


async def test_ctrl_c(agentfarm: Any, controller: Any, runtime_dir: Path) -> None:
    """Ctrl-C ends a command that waits with status 130 and no traceback."""
    controller.leases = [_lease("a")]
    controller.nodes = {"a": {"name": "a", "status": "ready"}}
    command = await asyncio.create_subprocess_exec(
        *CLI, "nodes", "drain", "a", "--wait", env={**os.environ, "AGENTFARM_RUNTIME_DIR": str(runtime_dir)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await eventually(lambda: ("GET", "leases", None) in controller.asked, "the command waits", 20)
    command.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(command.communicate(), 20)
    assert (command.returncode, out) == (130, b"")
    assert err.decode().splitlines()[-1] == "agentfarm: interrupted"
    assert b"Traceback" not in err


async def test_a_closed_pipe(agentfarm: Any, controller: Any, runtime_dir: Path) -> None:
    """A reader that goes away, as head does, leaves no traceback."""
    read, write = os.pipe()
    os.close(read)
    command = await asyncio.create_subprocess_exec(
        *CLI, "nodes", "list", "--json", env={**os.environ, "AGENTFARM_RUNTIME_DIR": str(runtime_dir)},
        stdout=write, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(write)
    _, err = await asyncio.wait_for(command.communicate(), 20)
    assert (command.returncode, err) == (141, b"")


def _lease(node: str) -> dict[str, Any]:
    request = {"owner": "ada", "server_name": "", "options": {}, "cpus": 0, "memory_bytes": 0, "groups": []}
    return {
        "id": "0" * 32, "owner": "ada", "server_name": "", "state": "running", "epoch": 1, "request": request,
        "created_at": 0.0, "node": node,
    }  # fmt: skip
