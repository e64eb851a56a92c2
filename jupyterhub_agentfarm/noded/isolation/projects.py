"""Project workspaces: a directory of the node for the members of a Hub group, in each member's server.

::

    one account     PROJECTS/NAME is noded's own, 0700: whatever its mode, every server without a sandbox reaches it
    accounts        root's, 2770, with the project's Unix group, which the members' servers are in; what a member makes
                    there is the group's to read and to write, by the directory's default ACL, or else by the umask
    sandboxes       only the owner's projects are bound, at their own path; the others are not even listed

The site shares the directory among nodes in its own way, or not. noded makes what is missing in it, and takes nothing
that is a link, or whose owner or mode is not its own doing: behind it may be what no member should see.
"""

from __future__ import annotations

import os
import stat
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.isolation import Isolation, is_project_name
from jupyterhub_agentfarm.models import LaunchSpec
from jupyterhub_agentfarm.protocol import ProjectsReport

from . import groups
from .accounts import own_account
from .layers import Account, Workspaces
from .refusals import no_project

#: Names the projects' directories to the server, as PATH does.
PROJECTS_VARIABLE = "AGENTFARM_PROJECTS"
#: File mode bits taken from what servers make where only the umask can open projects to their groups.
GROUP_UMASK = 0o007

_ACL = "system.posix_acl_default"
#: Version 2; the owner, the group: all; others: nothing. See linux/posix_acl_xattr.h.
_GROUP_WRITES = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, 0xFFFFFFFF) for tag, bits in ((1, 7), (4, 7), (0x20, 0))
)


def paths(spec: LaunchSpec) -> tuple[Path, ...]:
    """Return where the workspaces of a launch are, or would be."""
    root = _root(spec.isolation)
    return () if root is None else tuple(root / name for name in spec.projects)


def _root(isolation: Isolation) -> Path | None:
    # Where it really is: a sandbox has no link that leads there.
    return None if isolation.projects is None else Path(os.path.realpath(isolation.projects))


def joined(spec: LaunchSpec, account: Account) -> Account:
    """Return the account as a member of the groups of its projects.

    Raises
    ------
    LaunchFailed
        A group cannot be had.
    """
    if account.own:
        return account
    more = [groups.group_for(spec.isolation, path.name) for path in paths(spec)]
    return replace(account, groups=tuple(dict.fromkeys((*account.groups, *more))))


def prepared(spec: LaunchSpec, account: Account) -> Workspaces:
    """Return the workspaces of a launch; make those that are missing. It may wait for a file server.

    Raises
    ------
    LaunchFailed
        A workspace cannot be made, or is not what noded would have made.
    """
    wanted, root = paths(spec), _root(spec.isolation)
    if root is None:
        return Workspaces()
    if wanted:
        _check_root(root, account.own, wanted[0].name)
    inherited = [_made(path, None if account.own else groups.group_for(spec.isolation, path.name)) for path in wanted]
    return Workspaces(root, wanted, umask=None if all(inherited) else _umask(account, wanted[inherited.index(False)]))


def _check_root(root: Path, own: bool, project: str) -> None:
    try:
        mode = root.stat().st_mode
    except OSError as exc:
        raise no_project(project, f"{root} is not there ({exc.strerror}); make it, or mount what it is to be") from exc
    if not stat.S_ISDIR(mode):
        raise no_project(project, f"{root} is no directory")
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise no_project(project, f"everybody may write to {root}; run chmod o-w on it")
    if not (own or mode & stat.S_IXOTH):
        raise no_project(project, f"accounts cannot pass through {root}; run chmod o+x on it")


def _made(path: Path, gid: int | None) -> bool:
    """Make a workspace unless it is there; return whether it gives what is made in it to the group."""
    try:
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = _directory(path)
        if gid is not None and _unfinished(path, found):
            _share(path, gid)
            found = _directory(path)
    except OSError as exc:
        raise no_project(path.name, f"{path} cannot be made: {exc.strerror}") from exc
    if (fault := _fault(found, gid)) is not None:
        raise no_project(path.name, f"{path} {fault}")
    return gid is None or _inherits(path)


def _directory(path: Path) -> os.stat_result:
    # Not opened: on a file server that takes root for nobody noded may not look inside, and members may.
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise no_project(path.name, f"{path} is a link or a file, not a directory")
    return found


def _unfinished(path: Path, found: os.stat_result) -> bool:
    # Just made, by us or by another node: nothing is in it that could be given away.
    return found.st_uid == os.geteuid() and found.st_mode & 0o777 == 0o700 and not any(path.iterdir())


def _share(path: Path, gid: int) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(handle, -1, gid)
        os.fchmod(handle, 0o2770)
    finally:
        os.close(handle)


def _fault(found: os.stat_result, gid: int | None) -> str | None:
    if found.st_uid != os.geteuid():
        return f"belongs to the account {found.st_uid}, not to {own_account().name}"
    if gid is None:
        return None
    mend = f"chgrp {gid} and chmod 2770 make it right, if its members may see what is in it"
    if found.st_gid != gid:
        return f"belongs to the group {found.st_gid}, not to the project's, {gid}: {mend}"
    if found.st_mode & 0o2077 != 0o2070:
        return f"has the mode {stat.S_IMODE(found.st_mode):o}, not 2770: {mend}"
    return None


def _inherits(path: Path) -> bool:
    with suppress(OSError):
        return bool(os.getxattr(path, _ACL, follow_symlinks=False))
    try:
        os.setxattr(path, _ACL, _GROUP_WRITES, follow_symlinks=False)
    except OSError:
        return False
    return True


def _umask(account: Account, path: Path) -> int:
    if groups.private_group(account.gid, account.name):
        return GROUP_UMASK
    raise no_project(
        path.name,
        f"the file system of {path} has no ACLs, and {account.name} shares its primary group: what it makes would be "
        "open to that; give accounts a group of their own, or use a file system with POSIX ACLs",
    )


def survey(isolation: Isolation) -> ProjectsReport:
    """Return what is there of a node's projects, and what a server would be refused for. It may wait: use a thread."""
    root = _root(isolation)
    if root is None:
        return ProjectsReport()
    try:
        _check_root(root, isolation.account is None, "any")
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except (LaunchFailed, OSError) as exc:
        return ProjectsReport(fault=str(exc))
    names = [entry.name for entry in entries if is_project_name(entry.name)]
    found = {name: _surveyed(isolation, root / name) for name in names}
    return ProjectsReport(tuple(names), {name: fault for name, fault in found.items() if fault is not None})


def _surveyed(isolation: Isolation, path: Path) -> str | None:
    try:
        gid = None if isolation.account is None else groups.known_group(isolation, path.name)
        return _fault(_directory(path), gid)
    except (LaunchFailed, OSError) as exc:
        return str(exc)
