"""Which local account a server runs as, and making one.

A Hub name can hold anything. It is put into the admin's template, and only a result that is a name of an ordinary
account passes: never root, never an account of the system, never a member of a group like sudo or docker, never a name
that a program could read as something else.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Literal

from jupyterhub_agentfarm.errors import LaunchFailed
from jupyterhub_agentfarm.models import LaunchSpec

from ..listening import failed
from .layers import Account

#: What useradd may take, in seconds: it waits for the lock of /etc/passwd.
USERADD_SECONDS = 30.0

_LOGIN_DEFS = Path("/etc/login.defs")
_DEFAULT_MIN = 1000
#: Ids that the kernel shows for what it cannot map.
NOBODY = {65534, 2**16 - 1, 2**32 - 1, 2**32 - 2}
#: Accounts of directory services have dots, capitals and domains; digits alone would be an id.
EXISTING = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
CREATED = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
#: Groups whose members are as good as root.
PRIVILEGED = frozenset(
    {"root", "sudo", "wheel", "admin", "docker", "podman", "lxd", "incus", "libvirt", "disk", "shadow"}
)
_making = threading.Lock()


def ordinary_min(name: Literal["UID_MIN", "GID_MIN"], login_defs: Path = _LOGIN_DEFS) -> int:
    """Return the smallest id of an ordinary account or group: as login.defs says, 1000 where that says nothing."""
    try:
        found = re.search(rf"^\s*{name}\s+(\d+)", login_defs.read_text("utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return _DEFAULT_MIN
    # Somebody's 0 must not let root in.
    return max(1, int(found[1])) if found else _DEFAULT_MIN


def uid_min(login_defs: Path = _LOGIN_DEFS) -> int:
    """Return the smallest user id of an ordinary account."""
    return ordinary_min("UID_MIN", login_defs)


def own_account() -> Account:
    """Return the account that noded runs as."""
    return _account(pwd.getpwuid(os.getuid()), own=True)


def account_for(spec: LaunchSpec) -> Account:
    """Return the account that a server is to run as; make it when it is missing and the launch says so.

    It may ask a directory service or run useradd: call it in a thread.

    Raises
    ------
    LaunchFailed
        The owner maps to no account that a server may run as.
    """
    isolation = spec.isolation
    if isolation.account is None:
        return own_account()
    if os.geteuid() != 0:
        raise _refused("needs a noded that runs as root; start it as root, or choose no accounts")
    name = local_name(isolation.account, spec.owner)
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        if not isolation.create_accounts:
            raise _refused(f"names {name}, which this node has not; make it, or set create_accounts") from None
        found = _make(name)
    return _account(_checked(found, name))


def local_name(template: str, owner: str) -> str:
    """Return the name of the account of the Hub user `owner`.

    Raises
    ------
    LaunchFailed
        It is no name of an account.
    """
    name = template.replace("{username}", owner)
    if not owner or not EXISTING.fullmatch(name):
        raise _refused(f"makes {name[:64]!r} of the Hub user {owner[:64]!r}, which can name no account")
    return name


def _checked(found: pwd.struct_passwd, name: str) -> pwd.struct_passwd:
    if found.pw_name != name:
        # A directory service that ignores case would give two Hub users one account.
        raise _refused(f"names {name}, which this node knows as {found.pw_name} only")
    least = uid_min()
    if found.pw_uid < least or found.pw_uid in NOBODY or found.pw_gid == 0:
        raise _refused(f"names {name}, an account of the system (id {found.pw_uid}; ordinary ones begin at {least})")
    if powers := PRIVILEGED & _groups_of(found):
        # An admin's own account must not become that of whoever signs up under its name.
        raise _refused(
            f"names {name}, a member of {', '.join(sorted(powers))}; choose a template as 'hub-{{username}}'"
        )
    return found


def _groups_of(found: pwd.struct_passwd) -> set[str]:
    names = set()
    for gid in os.getgrouplist(found.pw_name, found.pw_gid):
        with contextlib.suppress(KeyError):  # a group without a name gives no power here
            names.add(grp.getgrgid(gid).gr_name)
    return names


def _make(name: str) -> pwd.struct_passwd:
    if not CREATED.fullmatch(name):
        raise _refused(f"names {name}, which useradd can make no account of; make it by hand")
    program = shutil.which("useradd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise _refused(f"names {name}, which this node has not, and has no useradd to make it with")
    options = ["--create-home", "--user-group", "--shell", "/bin/bash", "--comment", "made by agentfarm"]
    with _making:
        try:
            # Without a password option the password is locked.
            done = subprocess.run(
                [program, *options, "--key", "HOME_MODE=0700", "--key", "UMASK=077", "--", name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=USERADD_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise _refused(f"names {name}, and useradd could not make it: {exc}") from exc
    return _made(name, done)


def _made(name: str, done: subprocess.CompletedProcess[bytes]) -> pwd.struct_passwd:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        said = done.stderr.decode(errors="replace").strip()[-200:] or f"status {done.returncode}"
        raise _refused(f"names {name}, and useradd could not make it: {said}") from None
    if done.returncode == 0:
        # Older useradd do not know HOME_MODE.
        Path(found.pw_dir).chmod(0o700)
    return found


def _account(found: pwd.struct_passwd, own: bool = False) -> Account:
    groups = tuple(os.getgrouplist(found.pw_name, found.pw_gid))
    return Account(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir, found.pw_shell or "/bin/sh", groups, own)


def _refused(why: str) -> LaunchFailed:
    return failed(f"the option isolation.account {why}")


def why_no_accounts() -> str | None:
    """Return why servers cannot run as accounts of their own here; None when they can."""
    if os.geteuid() == 0:
        return None
    return f"noded runs as {own_account().name}, not as root, so that all servers run as that account"
