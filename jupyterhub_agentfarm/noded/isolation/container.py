"""A sandbox by Docker or Podman: the server starts from an image, with the leased GPUs by UUID and nothing else.

::

    noded ──▶ minding.py ──▶ `docker run` ──▶ engine ──▶ init ──▶ entry ──▶ the server
                │  the process that noded watches: ends as the container ends, and removes it
                └─ the environment, through stdin: it is not in the container's configuration, nor on a command line

The image must be on the node (nothing is pulled), and have a Python with jupyterhub-agentfarm[server]; the node's
`server_python` is its path there. The container shares the node's network and binds its port itself. It has the
server's home (:mod:`.homes`) and its private directory at their usual places, no capabilities, and no restart policy.

The lease is in the container's configuration: by it, and by the account's id, noded knows the container's processes.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

from jupyterhub_agentfarm.isolation import Engine, ResourceLimits

from ..orphans import NODED_VARIABLE
from ..procfs import MARKER
from .devices import is_simulated
from .homes import home_of
from .layers import Launch, Wrapped
from .minding import ENVIRONMENT
from .refusals import no_sandbox

log = logging.getLogger(__name__)

ENGINES: tuple[Engine, ...] = ("docker", "podman")
#: What asking an engine may take, in seconds; removing a container ends its processes first.
ASK_SECONDS, REMOVE_SECONDS = 5.0, 30.0
LEASE_LABEL, EPOCH_LABEL, NODED_LABEL = "agentfarm.lease", "agentfarm.epoch", "agentfarm.noded"

_MINDING = Path(__file__).with_name("minding.py")
#: What an engine's client needs of noded's own environment.
_CLIENT = ("PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONFIG", "CONTAINER_HOST")
#: Of the node, not of the image.
_NOT_INSIDE = {"PATH", "SHELL", "XDG_RUNTIME_DIR"}
#: Runs in the image before the server: takes the environment from stdin, so that no one else sees it.
ENTRY = (
    "import json,os,sys;given=json.load(sys.stdin);env={**os.environ,**given};"
    "folder=os.path.dirname(sys.argv[1]);"
    "env['PATH']=(folder+':' if folder else '')+os.environ.get('PATH',os.defpath);"
    "os.dup2(os.open('/dev/null',os.O_RDONLY),0);os.umask({umask});os.execvpe(sys.argv[1],sys.argv[1:],env)"
)


class Containers:
    """Wraps launches in containers.

    Parameters
    ----------
    programs
        Paths of the engines' clients, by engine; None: they are looked for.
    """

    def __init__(self, programs: Mapping[Engine, str] | None = None) -> None:
        found = {name: path for name in ENGINES if (path := shutil.which(name)) is not None}
        self._programs = dict(found if programs is None else programs)
        self._answering: set[Engine] = set()
        self._why: dict[Engine, str] = {}

    def why_not(self) -> str | None:
        """Return why this node has no engine; None when one answered just now."""
        for name in ENGINES:
            self._ask(name)
        return None if self._answering else "; ".join(self._why.values())

    def _ask(self, engine: Engine) -> None:
        program = self._programs.get(engine)
        if program is None:
            self._why[engine] = f"{engine} is not installed"
            return
        field = "{{.ServerVersion}}" if engine == "docker" else "{{.Version.Version}}"
        done = _run((program, "info", "--format", field))
        if done.returncode == 0:
            self._answering.add(engine)
        else:
            self._why[engine] = f"{engine} does not answer ({_last_line(done)})"

    def wrap(self, launch: Launch) -> Wrapped:
        """Return the call of the program that starts and minds the container.

        Raises
        ------
        LaunchFailed
            The engine that is wanted does not answer here, or the server would be root.
        """
        engine = launch.spec.isolation.engine
        if engine not in self._answering:
            self._ask(engine)
        if engine not in self._answering:
            raise no_sandbox("container", self._why.get(engine, f"{engine} was not asked yet"))
        if launch.account.uid == 0:
            raise no_sandbox("container", "its server would be root, of the node's files too; set isolation.account")
        program, name = self._programs[engine], container_name(launch.spec.lease)
        inside = {key: value for key, value in launch.environment.items() if key not in _NOT_INSIDE}
        environment = {key: os.environ[key] for key in _CLIENT if key in os.environ}
        environment |= _marks(launch) | {ENVIRONMENT: json.dumps(inside)}
        minding = (sys.executable, "-I", "-S", str(_MINDING), program, name)
        argv = (*minding, "run", "--name", name, *self._options(launch), *_command(launch))
        return Wrapped(argv, environment, "/", as_account=False, limited=True)

    def _options(self, launch: Launch) -> list[str]:
        spec, engine, account = launch.spec, launch.spec.isolation.engine, launch.account
        options = ["--interactive", "--init", "--pull=never", "--restart=no", "--network=host", "--log-driver=none"]
        options += ["--cap-drop=ALL", "--security-opt=no-new-privileges", f"--user={account.uid}:{account.gid}"]
        rootless = engine == "podman" and os.geteuid() != 0
        # An account's own engine has none of the node's groups to give.
        groups = () if rootless else account.groups
        options += [f"--group-add={group}" for group in groups if group not in (0, account.gid)]
        options += [f"--label={LEASE_LABEL}={spec.lease}", f"--label={EPOCH_LABEL}={spec.epoch}"]
        options += [f"--label={NODED_LABEL}={launch.environment.get(NODED_VARIABLE, '')}"]
        options += [f"--env={name}={value}" for name, value in _marks(launch).items()]
        # The container's ids would be those of a range of the account's otherwise.
        options += ["--userns=keep-id"] if rootless else []
        options += [_mount(_home(launch), account.home), _mount(str(launch.directory)), f"--workdir={launch.cwd}"]
        options += [_mount(str(folder)) for folder in launch.workspaces.folders]
        gpus = tuple(gpu for gpu in spec.gpus if not is_simulated(gpu))
        return options + _limits(spec.limits) + _gpus(engine, gpus)

    def release(self, lease: str) -> None:
        """Remove what is left of a lease's container."""
        for engine in self._answering:
            self._remove(engine, container_name(lease))

    def sweep(self, mark: str, leases: Collection[str]) -> None:
        """Remove the containers that are left behind; see :meth:`.layers.Sandboxing.sweep`."""
        for engine in self._answering:
            label = f"label={NODED_LABEL}={mark}"
            words = ("ps", "--all", "--filter", label, "--format", f'{{{{.Label "{LEASE_LABEL}"}}}}')
            if engine == "podman":
                words = (*words[:-1], f'{{{{index .Labels "{LEASE_LABEL}"}}}}')
            for lease in sorted(set(_run((self._programs[engine], *words)).stdout.split()) - set(leases)):
                log.warning("Removing the container of lease %s, which nobody knows any more", lease)
                self._remove(engine, container_name(lease))

    def _remove(self, engine: Engine, name: str) -> None:
        done = _run((self._programs[engine], "rm", "--force", name), REMOVE_SECONDS)
        if done.returncode != 0 and "no such container" not in done.stderr.lower():
            log.warning("Container %s cannot be removed: %s", name, _last_line(done))


def container_name(lease: str) -> str:
    """Return the name of a lease's container."""
    return f"agentfarm-{lease}"


def _marks(launch: Launch) -> dict[str, str]:
    """Return what names the lease and the noded in the environment of every process; none of it is secret."""
    return {name: launch.environment[name] for name in (MARKER, NODED_VARIABLE) if name in launch.environment}


def _command(launch: Launch) -> list[str]:
    command = launch.spec.command
    python = command[0] if Path(command[0]).name.startswith("python") else "python3"
    entry = ENTRY.replace("{umask}", str(launch.umask or 0o077))
    return ["--entrypoint=", str(launch.spec.isolation.image), python, "-I", "-S", "-c", entry, *command]


def _limits(limits: ResourceLimits) -> list[str]:
    options = []
    if limits.memory_bytes is not None:
        options += [f"--memory={limits.memory_bytes}", f"--memory-swap={limits.memory_bytes}"]
    if limits.cpus is not None:
        options.append(f"--cpus={limits.cpus:g}")
    if limits.processes is not None:
        # The container's init is there too.
        options.append(f"--pids-limit={limits.processes + 1}")
    return options


def _gpus(engine: Engine, uuids: tuple[str, ...]) -> list[str]:
    """Return the options for real GPUs; simulated ones have no device node and are not among them."""
    if not uuids:
        # Images with CUDA ask for all of them, which an engine whose default runtime is NVIDIA's would give.
        return ["--env=NVIDIA_VISIBLE_DEVICES=void"]
    if engine == "podman":
        return [f"--device=nvidia.com/gpu={uuid}" for uuid in uuids]
    return [f"--gpus={_quoted('device=' + ','.join(uuids))}"]


def _home(launch: Launch) -> str:
    home = home_of(launch)
    for folder in (launch.directory, *launch.workspaces.folders):
        if launch.account.own and folder.is_relative_to(launch.account.home):
            # An engine would make the place for a directory inside the home itself, as root.
            inner = home / folder.relative_to(launch.account.home)
            inner.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(home)


def _mount(source: str, target: str = "") -> str:
    # A field of its own each, so that a comma in a path stays one.
    return f"--mount={_quoted('type=bind', f'source={source}', f'target={target or source}')}"


def _quoted(*fields: str) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


def _run(argv: tuple[str, ...], seconds: float = ASK_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run an engine's client; that it cannot be run, or takes too long, is a failed run too."""
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(argv, 1, "", f"no answer within {seconds:g} s")
    except OSError as exc:
        return subprocess.CompletedProcess(argv, 1, "", str(exc))


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
