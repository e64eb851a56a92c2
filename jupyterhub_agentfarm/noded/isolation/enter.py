"""The program between noded and a server: it confines itself, then becomes the server.

``python -I -S enter.py PLAN_FD STATUS_FD``. The plan is a marshalled dictionary, see :func:`confine`. When a step
fails, the step's name, the errno and the path go to STATUS_FD as three lines; when all is well STATUS_FD is closed by
executing the server, and says nothing.

It runs in 10 ms because it imports next to nothing: no json, no signal, nothing of this package. A process that was
forked for a server, and has one thread, can call :func:`confine` itself.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import marshal
import os
import sys
from typing import Any, NoReturn

#: What STATUS_FD says when only the execution is left.
ENTERED = b"execute\n"


class StepFailed(Exception):
    """A step failed.

    Parameters
    ----------
    step
        "cgroup", "limit", "account", "directory" or "execute".
    code
        The errno.
    path
        What it was about.
    """

    def __init__(self, step: str, code: int, path: str) -> None:
        self.step, self.code, self.path = step, code, path
        super().__init__(step, code, path)


def confine(plan: dict[str, Any]) -> None:
    """Confine this process for good.

    Parameters
    ----------
    plan
        ``cgroups``: folders to join; ``optional``: as far as may be. ``rlimits``: (resource, value) pairs. ``umask``: a
        number or None. ``ids``: (uid, gid, groups) or None. ``links``: see :func:`lead_to_projects`, or None. ``cwd``:
        the working directory, entered as the new account.

    Raises
    ------
    StepFailed
        A step failed; those before it are done.
    """
    for folder in plan["cgroups"]:
        try:
            _step("cgroup", folder, lambda: _join(folder))  # noqa: B023 - called at once
        except StepFailed:
            if not plan["optional"]:
                raise
    if plan["rlimits"]:
        import resource

        for number, value in plan["rlimits"]:
            _step("limit", str(value), lambda: resource.setrlimit(number, (value, value)))  # noqa: B023 - at once
    if plan["umask"] is not None:
        os.umask(plan["umask"])
    if plan["ids"] is not None:
        uid, gid, groups = plan["ids"]
        _step("account", str(uid), lambda: _become(uid, gid, groups))
    if plan["links"] is not None:
        lead_to_projects(plan["links"])
    _step("directory", plan["cwd"], lambda: os.chdir(plan["cwd"]))


def _step(name: str, path: str, function: Any) -> None:
    try:
        function()
    except (OSError, ValueError) as exc:
        raise StepFailed(name, getattr(exc, "errno", None) or 0, path) from exc


def _join(folder: str) -> None:
    handle = os.open(f"{folder}/cgroup.procs", os.O_WRONLY)
    try:
        os.write(handle, b"0")
    finally:
        os.close(handle)


def _become(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def lead_to_projects(links: dict[str, Any]) -> None:
    """Have ~/projects/NAME lead to each project, as the account; what is the user's own there stays.

    The home is the user's to fill with links of its own, so none is followed. Where it cannot be written to, nothing
    leads to the projects: the server knows their paths.

    Parameters
    ----------
    links
        The fields of :class:`.layers.Links`, paths as text.
    """
    try:
        home = os.open(links["home"], os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        if links["names"]:
            _make_folder(home, links["owner"])
        folder = os.open("projects", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=home)
    except OSError:
        return
    finally:
        os.close(home)
    try:
        _lead(folder, links)
    except OSError:
        pass
    finally:
        os.close(folder)


def _make_folder(home: int, owner: Any) -> None:
    try:
        os.mkdir("projects", 0o700, dir_fd=home)
    except FileExistsError:
        return
    if owner is not None and os.geteuid() == 0:
        os.chown("projects", *owner, dir_fd=home, follow_symlinks=False)


def _lead(folder: int, links: dict[str, Any]) -> None:
    for name in os.listdir(folder):
        if links["tidy"] and name not in links["names"] and _target(folder, name) == f"{links['root']}/{name}":
            os.unlink(name, dir_fd=folder)
    for name in links["names"]:
        wanted, found = f"{links['root']}/{name}", _target(folder, name)
        if found is not None and found != wanted:
            os.unlink(name, dir_fd=folder)
        try:  # noqa: SIM105 - contextlib takes its time to import
            os.symlink(wanted, name, dir_fd=folder)
        except FileExistsError:
            pass  # it leads there already, or is the user's own


def _target(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None


def execute(plan: dict[str, Any]) -> NoReturn:
    """Become the server: ``argv`` with ``environment`` and nothing else."""
    # Python ignores these two, and what is ignored stays so in the next program.
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    argv = plan["argv"]
    try:
        os.execvpe(argv[0], argv, plan["environment"])  # noqa: S606 - no shell is the point
    except (OSError, ValueError) as exc:
        raise StepFailed("execute", getattr(exc, "errno", None) or 0, argv[0]) from exc


def main() -> None:
    """Read the plan, carry it out."""
    plan_fd, status_fd = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(status_fd, False)
    with open(plan_fd, "rb") as file:
        plan = marshal.load(file)  # noqa: S302 - noded wrote it a moment ago
    try:
        confine(plan)
        os.write(status_fd, ENTERED)
        execute(plan)
    except StepFailed as exc:
        os.write(status_fd, f"{exc.step}\n{exc.code}\n{exc.path}".encode(errors="replace"))
        os._exit(127)


if __name__ == "__main__":
    main()
