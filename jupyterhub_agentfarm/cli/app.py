"""``agentfarm`` itself: the list of commands, and how every one of them ends."""

from __future__ import annotations

import os
import sys

from traitlets import TraitError

from .. import __version__
from ..errors import AgentFarmError
from ..terminal.output import clean
from ..terminal.parsing import Parsed, UsageError

_CLI = "jupyterhub_agentfarm.cli"


class AgentFarm(Parsed):
    """The command without a subcommand: it knows the others."""

    name = "agentfarm"
    version = __version__
    description = "A farm of plain GPU machines behind JupyterHub."
    subcommands = {
        "demo": ("jupyterhub_agentfarm.demo.app.DemoApp", "Start a whole farm on this machine and benchmark it"),
        "nodes": (f"{_CLI}.nodes.Nodes", "List, add, cordon, drain and remove nodes"),
        "ca": (f"{_CLI}.ca.Ca", "Make the certificate authority that signs the farm's logins"),
        "leases": (f"{_CLI}.leases.Leases", "List who holds which GPUs, and why there"),
        "queue": (f"{_CLI}.leases.Queue", "List the requests that wait, and cancel one"),
        "quota": (f"{_CLI}.quota.Quota", "List who used how much, and who may use how much"),
        "agents": (f"{_CLI}.agents.Agents", "Register, change, suspend and retire AI agents"),
        "tasks": (f"{_CLI}.tasks.Tasks", "Submit notebooks as tasks of agents, and see what became of them"),
        "benchmark": (f"{_CLI}.benchmark.Benchmark", "Measure nodes and farm with real notebooks"),
        "doctor": (f"{_CLI}.doctor.Doctor", "Check configuration, services and nodes, and say how to mend them"),
        "controller": ("jupyterhub_agentfarm.controller.app.ControllerApp", "Run the controller outside the Hub"),
        "noded": ("jupyterhub_agentfarm.noded.app.NodedApp", "Run the daemon of this node"),
    }
    flags = {"version": ({}, "show the version")}
    examples = "  agentfarm demo\n  agentfarm nodes list --json\n  agentfarm benchmark run smoke"


def run(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status; errors are said in one sentence."""
    try:
        app = AgentFarm()
        app.initialize(argv)
        app.start()
        sys.stdout.flush()
    except UsageError as exc:
        return _say(exc.message, 2)
    except AgentFarmError as exc:
        return _say(exc.message, 1)
    except TraitError as exc:
        return _say(str(exc), 2)
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("jupyterhub_agentfarm"):
            raise  # a fault of ours, not a missing package
        return _say(f"the Python module {exc.name} is missing: run `pip install 'jupyterhub-agentfarm[hub]'`", 1)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:  # the reader of the output went away, as in `agentfarm nodes list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as exc:
        if isinstance(exc.code, str):
            return _say(exc.code, 1)
        return exc.code or 0
    return 0


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"agentfarm: {clean(message)}\n")
    return status
