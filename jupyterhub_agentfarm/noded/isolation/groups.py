"""The Unix group of a project, where servers run as accounts of their own.

A Hub group can be called anything, and its members' servers get the Unix group of its project. So only an ordinary
group passes: none of the system, none like sudo or docker, and none that is some account's own.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import threading

from jupyterhub_agentfarm.isolation import Isolation

from .accounts import CREATED, EXISTING, NOBODY, PRIVILEGED, USERADD_SECONDS, ordinary_min
from .refusals import no_project

_making = threading.Lock()


def group_for(isolation: Isolation, project: str) -> int:
    """Return the id of a project's group; make it when it is missing and accounts may be made.

    It may ask a directory service or run groupadd: call it in a thread.

    Raises
    ------
    LaunchFailed
        There is no such group, or none that a project may have.
    """
    name = isolation.project_group.replace("{project}", project)
    if not EXISTING.fullmatch(name):
        raise no_project(project, f"isolation.project_group makes {name[:64]!r} of it, which can name no group")
    try:
        found = grp.getgrnam(name)
    except KeyError:
        if not isolation.create_accounts:
            why = f"the node has no group {name}; make it, with the same id on all nodes, or set create_accounts"
            raise no_project(project, why) from None
        found = _make(project, name)
    return _checked(project, found)


def _checked(project: str, found: grp.struct_group) -> int:
    least = ordinary_min("GID_MIN")
    if found.gr_name in PRIVILEGED or found.gr_gid < least or found.gr_gid in NOBODY:
        why = f"{found.gr_name} is a group of the system (id {found.gr_gid}; ordinary ones begin at {least})"
        raise no_project(project, why)
    try:
        account = pwd.getpwnam(found.gr_name)
    except KeyError:
        return found.gr_gid
    raise no_project(
        project,
        f"{found.gr_name} is the group of the account {account.pw_name}; choose another isolation.project_group",
    )


def _make(project: str, name: str) -> grp.struct_group:
    if not CREATED.fullmatch(name):
        raise no_project(project, f"groupadd can make no group {name}; make it by hand")
    program = shutil.which("groupadd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise no_project(project, f"the node has no group {name}, and no groupadd to make it with")
    with _making:
        try:
            done = subprocess.run(
                [program, "--", name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=USERADD_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise no_project(project, f"groupadd could not make the group {name}: {exc}") from exc
    try:
        return grp.getgrnam(name)
    except KeyError:
        said = done.stderr.decode(errors="replace").strip()[-200:] or f"status {done.returncode}"
        raise no_project(project, f"groupadd could not make the group {name}: {said}") from None


def private_group(gid: int, account: str) -> bool:
    """Return whether a primary group is the account's alone, as far as its name and its members say."""
    try:
        found = grp.getgrgid(gid)
    except KeyError:
        return False
    return found.gr_name == account and set(found.gr_mem) <= {account}


def known_group(isolation: Isolation, project: str) -> int | None:
    """Return the id of a project's group where there is one that it may have; make none.

    Raises
    ------
    LaunchFailed
        The group that there is may not be a project's.
    """
    try:
        found = grp.getgrnam(isolation.project_group.replace("{project}", project))
    except KeyError:
        return None
    return _checked(project, found)
