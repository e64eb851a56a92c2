"""The command line of noded, and its options."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, cast

from traitlets import Bool, Enum, Integer, List, TraitError, Unicode, default, validate
from traitlets.config import Application

from jupyterhub_agentfarm import __version__
from jupyterhub_agentfarm.errors import AgentFarmError, ConflictError
from jupyterhub_agentfarm.traitlets import Seconds

from .ending import end_running
from .ensure import ALREADY_RUNS, check_socket_path, ensure, mark_managed


def mountpoint(path: Path) -> str:
    """Return the mountpoint of the filesystem that `path` is on, or will be on once it is made."""
    place = Path(os.path.realpath(path))
    return str(next((folder for folder in (place, *place.parents) if folder.is_mount()), Path("/")))


class NodedApp(Application):
    """The daemon on a node: telemetry, and the servers that run there.

    It listens on a unix socket in its state directory and on nothing else. The controller reaches it over SSH and
    starts it there with ``--ensure``; systemd can start it as well.
    """

    name = "agentfarm-noded"
    description = __doc__
    version = __version__

    state_dir = Unicode(
        config=True,
        help="""
        Directory of the socket, the lock, and the records and logs of servers; made with mode 0700. The default is
        $XDG_STATE_HOME/agentfarm or ~/.local/state/agentfarm. It must be on a local filesystem, and its path short:
        a unix socket's path has at most 107 bytes. Two noded of one account need two directories.
        """,
    )
    telemetry_interval = Seconds(
        2.0,
        config=True,
        help="""
        Seconds between two reports, 0.05 at least. Shorter ones make placement see a load sooner; each costs some
        milliseconds of CPU time on the node and, on some GPUs, keeps the device from saving power.
        """,
    )
    simulated_gpus = Integer(
        0,
        min=0,
        max=16,
        config=True,
        help="""
        Number of GPUs to declare that do not exist, 0-16, for demos and tests. They are marked as simulated wherever
        they are shown; their utilisation and memory are those of the processes of the server that holds them.
        """,
    )
    mountpoints = List(
        Unicode(),
        maxlen=4,
        config=True,
        help="""
        Mountpoints whose size and free space are reported, 4 at most. Name those that servers write to. One on a
        file server that hangs makes all of them disappear from the report until it answers. The default is "/" and
        the filesystems of the account's home and of the state directory where those are others.
        """,
    )
    nvml_timeout = Seconds(
        5.0,
        config=True,
        help="""
        Seconds after which a call of NVML counts as hanging, and the node's GPUs are reported without measured
        values. A smaller one is noticed sooner; a driver without persistence mode may need two seconds to wake up.
        """,
    )
    cgroup = Enum(
        ["auto", "off"],
        default_value="auto",
        config=True,
        help="""
        "auto": every server gets a cgroup of its own where noded may make one (a scope of systemd, a delegated version
        2 tree, or the version 1 hierarchies pids, memory, cpu and devices), so that stopping finds every process of it
        and limits hold for all of it. "off": never; sessions, parents and the environment's lease id are what processes
        are found by, and limits hold for each process by itself.
        """,
    )
    sandbox_binds = List(
        Unicode(),
        config=True,
        help="""
        Paths that servers in the sandbox "bubblewrap" may write to beside their own home, as far as their account
        may: scratch space, project folders, or devices as /dev/infiniband. Everything else of the node is there for
        reading only; each path more is a place where servers meet.
        """,
    )
    orphan_grace = Seconds(
        60.0,
        config=True,
        help="""
        Seconds for which a process that names a lease without a record here is left alone; then it is ended, unless
        the controller has that lease. `agentfarm doctor` lists such processes. Smaller frees what they hold sooner;
        larger gives an admin time to look at them.
        """,
    )
    warm_servers = Bool(
        True,
        config=True,
        help="""
        Start servers by forking a process that has imported what they need: for a
        fraction of the processor time, and with less memory. Each environment that servers start from costs the
        node 110 MiB and some seconds of one core after each change of its packages; and all servers of one such
        process have the same seed of hash() and the same addresses of libraries. What cannot be started so is
        started as ever; `agentfarm doctor` says why.
        """,
    )
    warm_environments = Integer(
        2,
        min=1,
        max=16,
        config=True,
        help="""
        Most environments (a Python, and locale, time zone or thread counts that servers are given) that are kept warm
        at a time. Each costs 100 MiB; servers of further ones are started cold.
        """,
    )
    warm_renew_after_starts = Integer(
        500,
        min=1,
        config=True,
        help="""
        Starts after which the process that servers are forked from is made anew. Smaller: fewer servers have the same
        seed of hash() and addresses of libraries, which make some attacks easier. Larger: those seconds of one core
        are needed less often. Servers are forked from the old one until the new one is ready.
        """,
    )
    warm_renew_after = Seconds(
        86400.0,
        config=True,
        help="""
        Seconds after which the process that servers are forked from is made anew, however many there were. See
        `warm_renew_after_starts`. A change of packages, configuration or interpreter is noticed at each start anyway.
        """,
    )
    warm_start_timeout = Seconds(
        20.0,
        config=True,
        help="""
        Seconds that a forked server may take until it answers; after that it is killed and started cold. Smaller: one
        that hangs costs its user less. Larger: a node under heavy load, or a Hub that is slow to answer, does not make
        starts slower still.
        """,
    )
    ensure = Bool(
        False,
        help='Start a noded in the background unless one runs, print {"socket", "pid"}, and exit.',
    ).tag(config=True)

    managed = Bool(
        False,
        help="""
        A service manager, as systemd, starts this noded and starts it again when it ends. A mark in the state
        directory, noded.managed, says so from then on: --ensure waits 8 seconds for it before it starts one itself.
        Remove the mark when the service manager no longer starts noded, or each --ensure that finds none waits in vain.
        """,
    ).tag(config=True)

    stop = Bool(
        False,
        help='End the noded that runs, print {"pid"} of it (null: there was none), and exit. Its servers go on.',
    ).tag(config=True)

    aliases = {
        "state-dir": "NodedApp.state_dir",
        "simulated-gpus": "NodedApp.simulated_gpus",
        "telemetry-interval": "NodedApp.telemetry_interval",
        "orphan-grace": "NodedApp.orphan_grace",
        "log-level": "Application.log_level",
        "config": "NodedApp.config_file",
    }
    flags = {
        "ensure": ({"NodedApp": {"ensure": True}}, "Start a noded in the background unless one runs."),
        "managed": ({"NodedApp": {"managed": True}}, "A service manager starts this noded, and starts it again."),
        "stop": ({"NodedApp": {"stop": True}}, "End the noded that runs; its servers go on."),
    }

    config_file = Unicode("", config=True, help="A traitlets configuration file to read; empty: none.")

    @default("state_dir")
    def _default_state_dir(self) -> str:
        given = os.environ.get("XDG_STATE_HOME", "")
        base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
        return str(base / "agentfarm")

    @default("mountpoints")
    def _default_mountpoints(self) -> list[str]:
        return list(dict.fromkeys(["/", mountpoint(Path.home()), mountpoint(self.socket_path.parent)]))

    @default("log_level")
    def _default_log_level(self) -> int:
        return logging.INFO

    @validate("telemetry_interval")
    def _check_interval(self, proposal: Any) -> float:
        if proposal["value"] < 0.05:
            raise TraitError("NodedApp.telemetry_interval must be at least 0.05 seconds")
        return float(proposal["value"])

    @property
    def socket_path(self) -> Path:
        """Absolute path of the socket."""
        return Path(self.state_dir).expanduser().absolute() / "noded.sock"

    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the command line, then the configuration file that it names."""
        self._arguments = list(sys.argv[1:] if argv is None else argv)
        self.parse_command_line(self._arguments)
        if self.config_file:
            path = Path(self.config_file).absolute()
            self.load_config_file(path.name, path=str(path.parent))
            self.update_config(self.cli_config)

    def start(self) -> None:
        """Run the daemon, or see to it that one runs."""
        try:
            check_socket_path(self.socket_path)
            if self.stop:
                self._stop()
            elif self.ensure:
                self._ensure()
            else:
                self._run()
        except (AgentFarmError, OSError) as exc:
            sys.stderr.write(f"{exc}\n")
            self.exit(1)

    def _ensure(self) -> None:
        # What --ensure starts is started again by nobody.
        kept = [argument for argument in self._arguments if argument not in ("--ensure", "--managed")]
        pid = ensure(self.socket_path, kept)
        sys.stdout.write(json.dumps({"socket": str(self.socket_path), "pid": pid}) + "\n")
        sys.stdout.flush()

    def _stop(self) -> None:
        sys.stdout.write(json.dumps({"pid": end_running(self.socket_path)}) + "\n")
        sys.stdout.flush()

    def _run(self) -> None:
        # Imported here: --ensure, which runs over SSH all the time, needs none of it.
        from .daemon import Noded, Settings, lock_state_dir
        from .warm.zygotes import WarmOptions

        logging.basicConfig(
            level=cast("int | str", self.log_level), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        settings = Settings(
            state_dir=self.socket_path.parent,
            telemetry_interval=self.telemetry_interval,
            simulated_gpus=self.simulated_gpus,
            mountpoints=tuple(self.mountpoints),
            nvml_timeout=self.nvml_timeout,
            cgroups=self.cgroup == "auto",
            orphan_grace=self.orphan_grace,
            sandbox_binds=tuple(self.sandbox_binds),
            warm=WarmOptions(
                enabled=self.warm_servers,
                environments=self.warm_environments,
                renew_after_starts=self.warm_renew_after_starts,
                renew_after_seconds=self.warm_renew_after,
                start_seconds=self.warm_start_timeout,
            ),
        )
        if self.managed:
            # Before the lock: whoever ends the noded that holds it then leaves the place to this one's successor.
            mark_managed(settings.state_dir)
        try:
            lock = lock_state_dir(settings.state_dir)
        except ConflictError as exc:
            sys.stderr.write(f"{exc}\n")
            self.exit(ALREADY_RUNS)
        try:
            asyncio.run(Noded(settings).run())
        finally:
            os.close(lock)
