"""A sandbox by bubblewrap: own processes, own /tmp, own home, and of the GPUs only the leased ones.

The system is there and cannot be written to. Other homes, noded's state and other servers' directories are covered by
empty ones. bwrap runs as the server's account, in a user namespace, and never as root. It stays as the parent of the
sandbox and passes no signals on: who ends the server signals :func:`inner`.
Whose home is whose says :mod:`.homes`.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Collection, Iterable
from pathlib import Path

from .. import procfs
from ..directories import RUN
from .devices import gpu_nodes
from .homes import home_of
from .layers import Launch, Wrapped
from .refusals import no_sandbox

#: What a trial may take, in seconds.
TRIAL_SECONDS = 5.0

_NOBODY = 65534
_HIDDEN = ("/home", "/root", "/run/user", "/var/tmp", str(RUN), "/run/agentfarm-controller")  # noqa: S108 - to cover it
#: Who reaches one of these is as good as root, and noded's account may be one that does.
_ENGINE_SOCKETS = tuple(map(Path, ("/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock")))
#: No --die-with-parent: servers outlive noded.
_SPACES = ("--unshare-pid", "--unshare-ipc", "--new-session")
_TMP = Path("/tmp")  # noqa: S108 - the sandbox's own
_SYSTEM = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", str(_TMP))


class Bubblewrap:
    """Wraps launches in bwrap.

    Parameters
    ----------
    hidden
        Places that no server may look into, beside homes and the servers' directories: noded's state.
    binds
        Paths that servers may write to beside their own home, devices among them.
    devices
        Where device nodes are.
    program
        Path of bwrap; None: it is looked for.
    """

    def __init__(
        self,
        hidden: Iterable[Path] = (),
        binds: Iterable[str] = (),
        devices: Path = Path("/dev"),
        program: str | None = None,
    ) -> None:
        self._hidden, self._binds, self._devices = tuple(hidden), tuple(binds), devices
        self._program = program or shutil.which("bwrap")

    def why_not(self) -> str | None:
        """Return why this node has no such sandbox; None when one was made just now."""
        if self._program is None:
            return "bwrap is not installed; install the package bubblewrap"
        other = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        try:
            done = subprocess.run(
                [self._program, *_SPACES, *_SYSTEM, "--", "true"],
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TRIAL_SECONDS,
                check=False,
                **other,  # type: ignore[call-overload]
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return f"bwrap does not work: {exc}"
        if done.returncode == 0:
            return None
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"status {done.returncode}"]
        return f"bwrap does not work ({said[0]}): the kernel must allow ordinary accounts user namespaces"

    def wrap(self, launch: Launch) -> Wrapped:
        """Return the call of bwrap.

        Raises
        ------
        LaunchFailed
            The server would be root, or has no owner whose home it could get.
        """
        account = launch.account
        if account.own and os.geteuid() == 0:
            raise no_sandbox("bubblewrap", "noded runs as root, which no sandbox holds; set isolation.account as well")
        home = Path(account.home)
        projects = launch.workspaces.root
        # Those of others are not even listed.
        hidden_here = self._hidden if projects is None else (*self._hidden, projects)
        covered = self._covered(home, account.own, hidden_here)
        inside = [word for path in covered for word in ("--tmpfs", str(path))]
        inside += ["--bind", str(home_of(launch)), str(home)]
        shown = _program_folders(launch.spec.command[0], home, covered)
        for folder in shown:
            inside += ["--ro-bind", str(folder), str(folder)]
        for hidden in hidden_here:
            # As ~/.local/state below a program of ~/.local/bin: noded's socket obeys whoever reaches it.
            if hidden.is_dir() and any(hidden.is_relative_to(folder) for folder in shown):
                inside += ["--tmpfs", str(hidden)]
        for engine in filter(Path.exists, _ENGINE_SOCKETS):
            inside += ["--ro-bind", "/dev/null", str(engine)]
        for folder in (launch.directory, *launch.workspaces.folders):
            inside += ["--bind", str(folder), str(folder)]
        for node in gpu_nodes(launch.minors, self._devices):
            inside += ["--dev-bind", str(node), f"/dev/{node.name}"]
        for path in self._binds:
            inside += ["--dev-bind-try", path, path]
        environment = {name: value for name, value in launch.environment.items() if name != "XDG_RUNTIME_DIR"}
        argv = (str(self._program), *_SPACES, *_SYSTEM, *inside, "--chdir", launch.cwd, "--", *launch.spec.command)
        # The environment is inherited: on the command line everybody could read it.
        return Wrapped(argv, environment, cwd=str(home))

    def release(self, lease: str) -> None:
        """Nothing is left: the kernel ends the namespaces with their processes."""

    def sweep(self, mark: str, leases: Collection[str]) -> None:
        """Nothing is left; see `release`."""

    def _covered(self, home: Path, own: bool, hidden: Iterable[Path]) -> list[Path]:
        # A folder right below / may hold everything; deeper ones that hold a home hold homes.
        wanted = [*map(Path, _HIDDEN), *([home.parent] if len(home.parts) > 3 else []), *([home] if own else [])]
        # Another account cannot look up a path inside noded's own private folders, nor need it be covered there.
        wanted += [path for path in hidden if own or _open_to_all(path.parent)]
        covered: list[Path] = []
        for path in sorted(dict.fromkeys(wanted), key=lambda path: len(path.parts)):
            if path.is_dir() and not any(path.is_relative_to(other) for other in (_TMP, *covered)):
                covered.append(path)
        return covered


def _open_to_all(folder: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents) if path.exists())


def _program_folders(program: str, home: Path, covered: Iterable[Path]) -> list[Path]:
    """Return the folders of a Python environment that is covered, and of the Python that it is made of."""
    if not Path(program).is_absolute():
        return []
    found = []
    for path in dict.fromkeys((Path(program), Path(os.path.realpath(program)))):
        prefix = path.parent.parent
        whole = (prefix / "pyvenv.cfg").exists() or any(prefix.glob("lib/python3*"))
        folder = prefix if whole else path.parent
        if any(other in folder.parents for other in covered) and not home.is_relative_to(folder):
            found.append(folder)
    return found


def inner(pid: int) -> int:
    """Return the pid of the server inside the sandbox whose bwrap is `pid`; `pid` itself when it is not up yet."""
    # bwrap ─▶ bwrap, first process of the sandbox ─▶ the server, and whatever lost its parent there.
    for init in procfs.children(pid):
        inside = [process for child in procfs.children(init) if (process := procfs.read(child)) is not None]
        if inside:
            return min(inside, key=lambda process: (process.start_ticks, process.pid)).pid
    return pid
