"""Project workspaces in every layer: a member's server has them, another's has not, and nothing odd is one."""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from noded_process import NodedError, NodedProcess, running_noded

from jupyterhub_agentfarm.errors import InvalidField, LaunchFailed
from jupyterhub_agentfarm.isolation import Isolation
from jupyterhub_agentfarm.models import LaunchOrder, LaunchSpec
from jupyterhub_agentfarm.noded.isolation import accounts, enter, groups, projects
from jupyterhub_agentfarm.noded.isolation.layers import Account, Workspaces

from .conftest import Pair
from .test_accounts import as_account, lines
from .test_bubblewrap import Bubblewrap, launch_of, run
from .test_container import Recorded, a_launch, options, recorded  # noqa: F401 - a fixture

#: Carries out its arguments, as "write=PATH", and says what became of each.
WORKS = """
import os, socket, sys
def write(path): open(path, "a").write(f"{os.environ['USER']} ")
def read(path): return open(path).read()
def list_(path): return sorted(os.listdir(path))
for step in sys.argv[1:]:
    verb, path = step.split("=", 1)
    try:
        print({"write": write, "read": read, "list": list_}[verb](os.path.expandvars(os.path.expanduser(path))))
    except OSError as exc:
        print(exc.strerror)
print(os.environ.get("AGENTFARM_PROJECTS"))
print("ready", flush=True)
socket.socket(fileno=int(os.environ["AGENTFARM_SOCKET_FD"])).accept()
"""
NONE = "No such file or directory"


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for projects that every account can pass through."""
    # A sandbox has a /tmp of its own, whatever is there.
    path = Path(tempfile.mkdtemp(prefix="afp", dir="/srv" if os.access("/srv", os.W_OK) else None))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def project() -> Iterator[str]:
    """The name of a project whose group is gone after the test."""
    name = f"q{secrets.token_hex(4)}"
    yield name
    if os.geteuid() == 0:
        subprocess.run(["/usr/sbin/groupdel", f"project-{name}"], capture_output=True, check=False, timeout=30)


def modes(root: Path) -> dict[str, int]:
    """Return what is in a directory, with the modes."""
    return {path.name: path.lstat().st_mode & 0o7777 for path in root.iterdir()}


def spec_of(root: Path, *names: str, owner: str = "ada", **isolation: Any) -> LaunchSpec:
    """Return a launch with projects."""
    chosen = Isolation(projects=str(root), **isolation)
    return LaunchSpec("a", 1, ("x",), {}, (), "h", "/", owner=owner, isolation=chosen, projects=names)


async def worked(noded: NodedProcess, lease: str, owner: str, steps: tuple[str, ...], **fields: Any) -> list[str]:
    """Have a server carry out steps as its owner's account; return what it said but for the last line."""
    wanted = as_account(owner, WORKS, *steps)
    isolation = fields.pop("isolation")
    await noded.launch(lease, **{**wanted, **fields, "isolation": {**wanted["isolation"], **isolation}})  # type: ignore[dict-item]
    return (await lines(noded, lease))[:-1]


# ---- one account ---------------------------------------------------------------------------------------------------


async def test_on_one_account_a_project_is_a_plain_directory(root: Path, tmp_path: Path) -> None:
    """Noded makes it with mode 0700; the server finds it in its home and in its environment."""
    async with running_noded() as noded:
        fields = {"isolation": {"projects": str(root)}, "projects": ["quant", "vision"]}
        steps = ("write=~/projects/quant/x", f"read={root}/quant/x")
        await noded.launch(
            "a", command=["/usr/bin/python3", "-c", WORKS, *steps], environment={"HOME": str(tmp_path)}, **fields
        )
        _, read, told, _ = await lines(noded, "a")
    assert read == f"{pwd.getpwuid(os.getuid()).pw_name} "
    assert told == f"{root}/quant:{root}/vision"
    assert modes(root) == {"quant": 0o700, "vision": 0o700}


async def test_without_projects_nothing_changes(root: Path, tmp_path: Path) -> None:
    """Neither an owner without projects nor a node without a directory for them has a ~/projects or the variable."""
    async with running_noded() as noded:
        command = ["/usr/bin/python3", "-c", WORKS, "list=~/projects"]
        home = {"HOME": str(tmp_path)}
        await noded.launch("a", command=command, environment=home, isolation={"projects": str(root)})
        assert (await lines(noded, "a"))[:2] == [NONE, "None"]
        await noded.launch("b", command=command, environment=home, projects=["quant"])
        assert (await lines(noded, "b"))[:2] == [NONE, "None"]
    assert modes(root) == {}


# ---- accounts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sandbox", ["none", pytest.param("bubblewrap", marks=pytest.mark.bwrap)])
async def test_members_share_a_project_and_others_do_not(pair: Pair, root: Path, project: str, sandbox: str) -> None:
    """What one makes the other member reads and changes; who is no member, or none any more, sees none of it."""
    file, told = f"{root}/{project}/notes/day", f"{root}/{project}"
    isolation = {"projects": str(root), "create_accounts": True, "sandbox": sandbox}
    member: dict[str, Any] = {"isolation": isolation, "projects": [project]}
    other: dict[str, Any] = {"isolation": isolation, "projects": []}
    denied = "Permission denied" if sandbox == "none" else NONE
    async with running_noded() as noded:
        assert (await worked(noded, "a", pair.ada, (f"write=~/projects/{project}/x",), **member))[1] == told
        (root / project / "notes").mkdir()
        shutil.chown(root / project / "notes", pair.ada)
        await worked(noded, "a1", pair.ada, (f"write={file}",), **member)
        seen = await worked(
            noded, "b", pair.bob, (f"read={file}", f"list={root}/{project}", "list=~/projects"), **other
        )
        assert [seen[0], seen[1], seen[3]] == [denied, denied, "None"]
        assert seen[2] in {NONE, "[]"}
        assert await worked(noded, "b1", pair.bob, (f"write={file}", f"read={file}"), **member) == [
            "None",
            f"{pair.ada} {pair.bob} ",
            told,
        ]
        # Out again: the next start has neither the directory nor the link.
        out = await worked(noded, "b2", pair.bob, (f"read={file}", "list=~/projects"), **other)
        assert out == [denied, "[]", "None"]
    found = (root / project).stat()
    assert (found.st_uid, grp.getgrgid(found.st_gid).gr_name) == (0, f"project-{project}")
    assert found.st_mode & 0o7777 == 0o2770


@pytest.mark.bwrap
async def test_the_sandbox_lists_no_other_project(pair: Pair, root: Path, project: str) -> None:
    """In the sandbox not even the names of others' projects are there."""
    (root / "secret").mkdir(mode=0o700)
    isolation = {"projects": str(root), "create_accounts": True, "sandbox": "bubblewrap"}
    async with running_noded() as noded:
        steps = (f"list={root}",)
        assert (await worked(noded, "a", pair.ada, steps, isolation=isolation, projects=[project]))[
            0
        ] == f"['{project}']"
        assert (await worked(noded, "b", pair.bob, steps, isolation=isolation))[0] == "[]"


@pytest.mark.bwrap
def test_on_one_account_the_sandbox_keeps_projects_apart(
    pair: Pair, root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where servers share an account each sandbox has its owner's projects alone."""
    found = pwd.getpwnam(pair.ada)
    shared = Account(pair.ada, found.pw_uid, found.pw_gid, found.pw_dir, "/bin/sh", (found.pw_gid,), own=True)
    monkeypatch.setattr(os, "geteuid", lambda: shared.uid)
    for name in ("quant", "vision"):
        (root / name).mkdir(mode=0o700)
        shutil.chown(root / name, shared.uid)
    directory = Path(tempfile.mkdtemp(prefix="afd"))
    shutil.chown(directory, shared.uid)
    try:
        launch = launch_of(shared, directory, f"import os; print(os.listdir('{root}'))", "ada")
        launch = dataclasses.replace(launch, workspaces=Workspaces(root, (root / "quant",)))
        wrapping = Bubblewrap()
        wrapping.wrap(launch)
        for path in (Path(found.pw_dir, "agentfarm-homes"), Path(found.pw_dir, "agentfarm-homes/ada")):
            shutil.chown(path, shared.uid)
        assert run(shared, launch, wrapping) == ["['quant']"]
    finally:
        shutil.rmtree(directory)


def test_without_acls_the_umask_opens_what_a_member_makes(
    pair: Pair, root: Path, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without ACLs the umask is 007, where that opens nothing to others than the project's members."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    spec = spec_of(root, project, owner=pair.ada, account="{username}", create_accounts=True)
    account = projects.joined(spec, accounts.account_for(spec))
    assert projects.prepared(spec, account).umask is None
    shutil.rmtree(root / project)
    monkeypatch.setattr(os, "setxattr", refuse)
    assert projects.prepared(spec, account).umask == projects.GROUP_UMASK
    with pytest.raises(LaunchFailed, match="shares its primary group"):
        projects.prepared(spec, dataclasses.replace(account, gid=grp.getgrnam("users").gr_gid))


def test_a_group_that_is_missing_is_named_with_what_to_do(pair: Pair, root: Path, project: str) -> None:
    """Without create_accounts no group is made: the sentence names it."""
    spec = spec_of(root, project, owner=pair.ada, account="{username}")
    with pytest.raises(LaunchFailed, match=f"the node has no group project-{project}; make it"):
        projects.joined(spec, accounts.account_for(spec))


def test_groups_that_mean_something_else_are_refused(pair: Pair) -> None:
    """Neither a group of the system nor an account's own becomes a project's, whatever a Hub group is called."""
    isolation = Isolation(account="{username}", project_group="{project}")
    for name in ("sudo", "daemon", "root", "shadow"):
        with pytest.raises(LaunchFailed, match="a group of the system"):
            groups.group_for(isolation, name)
    with pytest.raises(LaunchFailed, match=f"the group of the account {pair.bob}"):
        groups.group_for(isolation, pair.bob)


# ---- what is no workspace ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", ".hidden", "-rf", "a b", "a:b", "é", "x" * 65, "a\n"])
def test_names_that_could_be_paths_are_refused(name: str) -> None:
    """Neither the controller nor noded takes a project whose name is more than a name."""
    with pytest.raises(InvalidField, match="projects must be"):
        LaunchOrder(("x",), "/", projects=(name,))


async def test_noded_checks_names_itself(root: Path) -> None:
    """A name that leads out of the directory does not get past noded either."""
    async with running_noded() as noded:
        with pytest.raises(NodedError, match="projects must be"):
            await noded.launch("a", isolation={"projects": str(root)}, projects=["../x"])


def test_what_is_not_nodeds_own_directory_is_refused(root: Path, tmp_path: Path) -> None:
    """A link, a file, and a directory that others made are refused, each with a sentence that says why."""
    own = accounts.own_account()
    (root / "link").symlink_to(tmp_path)
    (root / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(LaunchFailed, match="is a link or a file, not a directory"):
            projects.prepared(spec_of(root, name), own)
    with pytest.raises(LaunchFailed, match="is not there"):
        projects.prepared(spec_of(root / "unmounted", "quant"), own)
    root.chmod(0o777)
    with pytest.raises(LaunchFailed, match=r"everybody may write to .*chmod o-w"):
        projects.prepared(spec_of(root, "quant"), own)


@pytest.mark.skipif(os.geteuid() != 0, reason="accounts: only root can give files away")
def test_a_directory_of_somebody_else_is_refused(pair: Pair, root: Path, project: str) -> None:
    """Another's directory is refused, and so is root's own that was not made for the project: it may hold secrets."""
    (root / "theirs").mkdir()
    shutil.chown(root / "theirs", pair.ada)
    with pytest.raises(LaunchFailed, match="belongs to the account"):
        projects.prepared(spec_of(root, "theirs"), accounts.own_account())
    spec = spec_of(root, project, owner=pair.ada, account="{username}", create_accounts=True)
    account = projects.joined(spec, accounts.account_for(spec))
    (root / project).mkdir(mode=0o700)
    (root / project / "secret").touch()
    with pytest.raises(LaunchFailed, match=r"belongs to the group 0, not to the project.s, .*chmod 2770"):
        projects.prepared(spec, account)
    os.chown(root / project, -1, account.groups[-1])
    with pytest.raises(LaunchFailed, match=r"has the mode \d*700, not 2770"):
        projects.prepared(spec, account)
    root.chmod(0o700)
    with pytest.raises(LaunchFailed, match=r"accounts cannot pass through .*chmod o\+x"):
        projects.prepared(spec, account)


# ---- what leads there ----------------------------------------------------------------------------------------------


def lead(home: Path, *names: str, tidy: bool = True) -> None:
    """Make the links of a server's home."""
    enter.lead_to_projects({"home": str(home), "root": "/p", "names": names, "owner": None, "tidy": tidy})


def links(home: Path) -> dict[str, str]:
    """Return the links in a home's projects."""
    return {path.name: str(path.readlink()) for path in (home / "projects").iterdir() if path.is_symlink()}


def test_links_follow_membership_and_leave_what_is_the_users(tmp_path: Path) -> None:
    """New projects get a link, old ones lose theirs, wrong ones are put right; files and other links stay."""
    lead(tmp_path, "quant", "vision")
    assert links(tmp_path) == {"quant": "/p/quant", "vision": "/p/vision"}
    (tmp_path / "projects/mine").symlink_to("/somewhere")
    (tmp_path / "projects/text").mkdir()
    lead(tmp_path, "vision", "text")
    assert links(tmp_path) == {"vision": "/p/vision", "mine": "/somewhere"}
    (tmp_path / "projects/quant").symlink_to("/old/quant")
    lead(tmp_path, "quant", tidy=False)
    assert links(tmp_path) == {"quant": "/p/quant", "vision": "/p/vision", "mine": "/somewhere"}


def test_a_home_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    """A user who makes ~/projects a link has noded write nowhere; a home that is not there stops no start."""
    (tmp_path / "home").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "home/projects").symlink_to(tmp_path / "target")
    lead(tmp_path / "home", "quant")
    assert list((tmp_path / "target").iterdir()) == []
    lead(tmp_path / "nowhere", "quant")


# ---- containers ----------------------------------------------------------------------------------------------------


def test_a_container_has_its_owners_projects_mounted(recorded: Recorded) -> None:  # noqa: F811 - the fixture
    """Each is a mount of its own, and what is made there is the group's also where only the umask can see to it."""
    launch = a_launch(workspaces=Workspaces(Path("/p"), (Path("/p/quant"),)), umask=projects.GROUP_UMASK)
    given = options(launch, recorded)
    assert "--mount=type=bind,source=/p/quant,target=/p/quant" in given
    assert not [word for word in given if "source=/p," in word]
    argv = recorded.containers().wrap(launch).argv
    assert any(f"os.umask({0o007})" in word for word in argv)


# ---- what is there -------------------------------------------------------------------------------------------------


async def test_noded_says_what_is_there(root: Path) -> None:
    """Asked under an isolation it names the projects and what is wrong with them, and makes nothing."""
    (root / "quant").mkdir()
    (root / "link").symlink_to("/etc")
    async with running_noded() as noded:
        found = await noded.call("projects", {"isolation": {"projects": str(root)}})
        assert found["names"] == ["link", "quant"]
        assert list(found["faults"]) == ["link"]
        missing = await noded.call("projects", {"isolation": {"projects": f"{root}/x"}})
        assert "is not there" in missing["fault"]
        none: dict[str, Any] = {"names": [], "faults": {}, "fault": ""}
        assert await noded.call("projects", {"isolation": {}}) == none
    assert sorted(modes(root)) == ["link", "quant"]
