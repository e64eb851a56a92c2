"""A real systemd in a namespace of its own: its user manager in the place of the machine's, with a bus that it is on.

Only root can make it. What runs in the namespace, see :attr:`SystemdManager.enter`, has systemd-run and busctl work.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = "/lib/systemd/systemd"
_READY_SECONDS = 30.0
#: The manager takes the root of its tree, which is a folder of its own here, for the machine's.
_SCRIPT = f"""
set -e
umount /sys/fs/cgroup/unified 2>/dev/null || true
umount /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/dbus /run/manager
chmod 700 /run/manager
export XDG_RUNTIME_DIR=/run/manager
{_PROGRAM} --user --log-target=null &
manager=$!
until [ -S /run/manager/systemd/private ] && [ -S /run/manager/bus ]; do kill -0 $manager; sleep 0.05; done
ln -s /run/manager/systemd/private /run/systemd/private
ln -s /run/manager/bus /run/dbus/system_bus_socket
busctl --quiet call org.freedesktop.DBus / org.freedesktop.DBus ListNames
echo ready
cat
kill $manager; wait $manager || true
pkill -P $$ || true
"""


def why_not() -> str | None:
    """Return why there can be none here."""
    if os.geteuid() != 0:
        return "only root can make the namespaces of a systemd"
    needed = ("systemd-run", "busctl", "dbus-daemon", "unshare", "nsenter")
    missing = [name for name in needed if shutil.which(name) is None]
    if missing or not Path(_PROGRAM).exists():
        return f"systemd and dbus are not installed ({', '.join(missing) or _PROGRAM})"
    return None if Path("/sys/fs/cgroup/systemd").is_dir() else "this machine has no tree of cgroups for a systemd"


@dataclass(frozen=True)
class SystemdManager:
    """One that runs."""

    pid: int
    folder: Path

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command is started with to run beside it."""
        enter = (
            f'echo $$ >{self.folder}/noded/cgroup.procs && exec nsenter --target={self.pid} --mount --cgroup -- "$@"'
        )
        return ("sh", "-c", enter, "sh")


@contextmanager
def systemd_manager() -> Iterator[SystemdManager]:
    """Run one."""
    folder = Path("/sys/fs/cgroup/systemd") / f"agentfarm-test-{os.getpid()}"
    (folder / "noded").mkdir(parents=True)

    def enter() -> None:
        (folder / "cgroup.procs").write_text(str(os.getpid()))

    process = subprocess.Popen(
        ["unshare", "--mount", "--cgroup", "--propagation", "private", "sh", "-c", _SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=enter,  # noqa: PLW1509 - it has one thread, and the namespace begins where the process is
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield SystemdManager(process.pid, folder)
    finally:
        process.kill() if process.stdin is None else process.stdin.close()
        try:
            process.wait(_READY_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
        folder.rmdir()
