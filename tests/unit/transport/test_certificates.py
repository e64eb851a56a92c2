"""Logins with certificates of the farm's authority, and host keys that do not vouch, against OpenSSH's sshd."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import asyncssh
import pytest
from link_listening import linked, quick_pool, up
from openssh import OpenSSHNode, openssh_node, why_no_sshd
from ssh_node import noded_pid
from waiting import eventually

from jupyterhub_agentfarm.errors import HostKeyRefused, LoginRefused, NodeUnreachable, TransportError
from jupyterhub_agentfarm.models import NodeSpec
from jupyterhub_agentfarm.transport import SSHPool, user_ca

pytestmark = [pytest.mark.sshd, pytest.mark.skipif(bool(why_no_sshd()), reason=why_no_sshd())]


@pytest.fixture
async def node() -> AsyncIterator[OpenSSHNode]:
    """A node whose sshd says everything, and lets nobody in by a key."""
    async with openssh_node(options="LogLevel VERBOSE") as node:
        (node.directory / "sshd" / "authorized_keys").write_text("")
        yield node


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The farm's authority for logins."""
    user_ca.make_ca(tmp_path / "ca")
    return tmp_path / "ca"


async def trusting(node: OpenSSHNode, ca: Path, more: str = "") -> None:
    """Let the node trust the authority, and take away the node's own key on our side."""
    node.spec = replace(node.spec, ssh_keyfile=None)
    await node.restart(f"LogLevel VERBOSE\nTrustedUserCAKeys {ca}.pub\n{more}")


def keygen(*argv: str) -> None:
    """Run ssh-keygen quietly."""
    subprocess.run(["ssh-keygen", "-q", *argv], check=True)


# ---- certificates of users -------------------------------------------------------------------------------------


async def test_the_whole_path_with_a_certificate_and_no_key_anywhere(node: OpenSSHNode, ca: Path) -> None:
    """A node that trusts the authority and has no key of ours serves commands and noded's socket."""
    await trusting(node, ca)
    async with linked(node.spec, quick_pool(user_ca=str(ca))) as (a_link, heard):
        await up(heard)
        assert (await a_link.run(["printf", "here"])).stdout == "here"
        assert await a_link.client.logs("l1") == "log of l1"
    assert "for node n1 (serial" in node.log


async def test_a_certificate_permits_no_terminal_and_no_agent(node: OpenSSHNode, ca: Path) -> None:
    """What the farm does not need is refused by sshd to whoever holds such a certificate."""
    await trusting(node, ca)
    made = user_ca.credentials(user_ca.load_ca(ca), str(node.spec.user), "n1", 60)
    options = {"known_hosts": None, "username": node.spec.user, "client_keys": made, "agent_path": None, "config": None}
    async with asyncssh.connect(node.spec.host, node.spec.port, **options) as ssh:
        with pytest.raises(asyncssh.ChannelOpenError, match="PTY request failed"):
            await ssh.run("true", term_type="xterm")
    expected = {"permit-port-forwarding": True}
    assert made[0][1].options == expected


async def test_a_certificate_for_one_account_opens_no_other(node: OpenSSHNode, ca: Path) -> None:
    """The account is a part of the certificate."""
    await trusting(node, ca)
    made = user_ca.credentials(user_ca.load_ca(ca), "somebody-else", "n1", 60)
    options = {"known_hosts": None, "username": node.spec.user, "client_keys": made, "agent_path": None, "config": None}
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(node.spec.host, node.spec.port, **options)
    assert "name is not a listed principal" in node.log


async def test_an_expired_certificate_is_a_refused_login(
    node: OpenSSHNode, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose clock is past the certificate's end refuses; the sentence names what to look at."""
    await trusting(node, ca)
    now = user_ca.time.time()
    monkeypatch.setattr(user_ca.time, "time", lambda: now - 3600)
    with pytest.raises(LoginRefused, match="its clock is right: a certificate is good for 300 s"):
        await quick_pool(user_ca=str(ca)).connection(node.spec)
    assert "Certificate invalid: expired" in node.log
    assert noded_pid(node.state_dir) == 0


async def test_a_revoked_authority_is_a_refused_login(node: OpenSSHNode, ca: Path) -> None:
    """RevokedKeys on the node ends what the authority signs."""
    await trusting(node, ca, f"RevokedKeys {ca}.pub")
    with pytest.raises(LoginRefused, match="does not revoke it"):
        await quick_pool(user_ca=str(ca)).connection(node.spec)
    assert "revoked" in node.log


async def test_a_key_file_with_a_certificate_beside_it_until_it_expires(
    node: OpenSSHNode, ca: Path, tmp_path: Path
) -> None:
    """KEY-cert.pub is used as ssh does; once it is over, that is what the refusal says."""
    await trusting(node, ca)
    key = tmp_path / "id"
    keygen("-t", "ed25519", "-N", "", "-f", str(key))
    pool = quick_pool(client_keys=[str(key)])
    for validity in ("-1d:+1d", "-2d:-1d"):
        keygen("-s", str(ca), "-I", "x", "-n", str(node.spec.user), "-V", validity, f"{key}.pub")
        if validity == "-1d:+1d":
            assert (await (await pool.connection(node.spec)).run(["printf", "in"], 10)).stdout == "in"
            await pool.aclose()
    with pytest.raises(LoginRefused, match=r"id-cert\.pub has expired"):
        await pool.connection(node.spec)


async def test_a_revoked_key_is_a_refused_login(tmp_path: Path) -> None:
    """A key that the node revokes does not log in, though it is in authorized_keys."""
    async with openssh_node() as node:
        revoked = tmp_path / "revoked"
        revoked.write_text((node.directory / "sshd" / "authorized_keys").read_text())
        await node.restart(f"LogLevel VERBOSE\nRevokedKeys {revoked}")
        with pytest.raises(LoginRefused, match="not revoked there"):
            await quick_pool().connection(node.spec)
        assert "revoked by file" in node.log


async def test_an_authority_that_others_can_read_signs_nothing(node: OpenSSHNode, ca: Path) -> None:
    """The farm does not go on with a key that may have leaked, nor with none."""
    node.spec = replace(node.spec, ssh_keyfile=None)
    ca.chmod(0o640)  # noqa: ASYNC240
    with pytest.raises(NodeUnreachable, match="must be yours alone: `chmod 600`"):
        await quick_pool(user_ca=str(ca)).connection(node.spec)
    with pytest.raises(NodeUnreachable, match="`agentfarm ca init` makes one"):
        await quick_pool(user_ca=f"{ca}.missing").connection(node.spec)
    ca.chmod(0o600)  # noqa: ASYNC240
    keygen("-p", "-N", "secret", "-f", str(ca))
    with pytest.raises(NodeUnreachable, match="must have no passphrase"):
        await quick_pool(user_ca=str(ca)).connection(node.spec)


# ---- host keys and host certificates ---------------------------------------------------------------------------


@pytest.fixture
async def shown() -> AsyncIterator[OpenSSHNode]:
    """A node that lets us in when we trust what it shows."""
    async with openssh_node(options="LogLevel DEBUG") as node:
        yield node


async def certify(node: OpenSSHNode, ca: Path, names: str = "127.0.0.1", validity: str = "-1d:+1d") -> None:
    """Sign the node's host key, and have its sshd show the certificate."""
    key = node.directory / "sshd" / "ssh_host_ed25519_key"
    keygen("-s", str(ca), "-h", "-I", "host", "-n", names, "-V", validity, f"{key}.pub")
    await node.restart(f"LogLevel DEBUG\nHostCertificate {key}-cert.pub")


def knowing(ca: Path, *lines: str) -> SSHPool:
    """A pool whose known_hosts has these lines; "{ca}" is the authority's public key."""
    file = ca.with_name("known_hosts")
    public = Path(f"{ca}.pub").read_text().strip()
    file.write_text("".join(f"{line.format(ca=public)}\n" for line in lines))
    return quick_pool(known_hosts=str(file))


async def refusal(node: OpenSSHNode, pool: SSHPool, pinned: str | None = None) -> str:
    """Return why the host key is refused, when nothing was sent to the node by then."""
    mark = len(node.log)
    with pytest.raises(HostKeyRefused) as caught:
        await pool.connection(replace(node.spec, host_key=pinned))
    await eventually(lambda: "[preauth]" in node.log[mark:], "sshd noticed that we went away")
    assert "userauth" not in node.log[mark:], "a login was tried"
    assert f"user {node.spec.user}" not in node.log[mark:], "the account's name was sent"
    assert noded_pid(node.state_dir) == 0
    return caught.value.message


async def test_a_host_certificate_vouches_for_a_node(shown: OpenSSHNode, ca: Path) -> None:
    """A @cert-authority line is enough, whatever key the node has."""
    await certify(shown, ca)
    pool = knowing(ca, "@cert-authority * {ca}")
    connection = await pool.connection(replace(shown.spec, host_key=None))
    assert (await connection.run(["printf", "in"], 10)).stdout == "in"
    assert "userauth" in shown.log, "the other tests look for this word"
    assert f"user {shown.spec.user}" in shown.log, "and for this"
    await pool.aclose()


@pytest.mark.parametrize(
    ("names", "validity", "sentence"),
    [
        ("127.0.0.1", "-2d:-1d", "has expired"),
        ("127.0.0.1", "+1d:+2d", "is not valid yet"),
        ("other.example.org", "-1d:+1d", "was made for other names"),
    ],
)
async def test_a_host_certificate_that_does_not_hold(
    shown: OpenSSHNode, ca: Path, names: str, validity: str, sentence: str
) -> None:
    """Its time and its names are looked at before anything is sent."""
    await certify(shown, ca, names, validity)
    assert sentence in await refusal(shown, knowing(ca, "@cert-authority * {ca}"))


async def test_a_host_certificate_of_another_authority(shown: OpenSSHNode, ca: Path, tmp_path: Path) -> None:
    """Only the authority that known_hosts names signs host keys."""
    other = tmp_path / "other"
    user_ca.make_ca(other)
    await certify(shown, other)
    assert "no @cert-authority line" in await refusal(shown, knowing(ca, "@cert-authority * {ca}"))


async def test_revoked_authorities_and_keys_of_hosts(shown: OpenSSHNode, ca: Path) -> None:
    """@revoked wins over @cert-authority, over a line with the key, and over a pinned key, on every port."""
    await certify(shown, ca)
    pool = knowing(ca, "@cert-authority * {ca}", "@revoked * {ca}")
    assert "the authority that signed" in await refusal(shown, pool)
    key, revoked = str(shown.spec.host_key), "is marked @revoked in"
    place = f"[127.0.0.1]:{shown.spec.port}"
    assert revoked in await refusal(shown, knowing(ca, "@cert-authority * {ca}", f"@revoked * {key}"))
    assert revoked in await refusal(shown, knowing(ca, f"{place} {key}", f"@revoked 127.0.0.1 {key}"))
    assert revoked in await refusal(shown, knowing(ca, f"@revoked * {key}"), pinned=key)


async def test_changed_and_unknown_host_keys(shown: OpenSSHNode, ca: Path) -> None:
    """A key that is not the known one, the pinned one, or known at all is refused, each with its own sentence."""
    other = " ".join(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().split()[:2])
    changed = f"127.0.0.1 {other}"
    assert "another host key than" in await refusal(shown, knowing(ca, changed))
    assert "than the pinned one (SHA256:" in await refusal(shown, knowing(ca), pinned=other)
    assert "compare its fingerprint" in await refusal(shown, knowing(ca))
    rsa = " ".join(asyncssh.generate_private_key("ssh-rsa", key_size=2048).export_public_key().decode().split()[:2])
    assert "than the pinned one (SHA256:" in await refusal(shown, knowing(ca), pinned=rsa)


async def test_a_node_without_a_certificate_where_one_is_needed(shown: OpenSSHNode, ca: Path) -> None:
    """A plain key is none of the authority's; nothing more than the key exchange is done."""
    assert "shows no host certificate" in await refusal(shown, knowing(ca, "@cert-authority * {ca}"))


async def test_an_unreadable_known_hosts_vouches_for_nobody(shown: OpenSSHNode, ca: Path) -> None:
    """What cannot be read may revoke the pinned key: it is refused."""
    pool = knowing(ca)
    Path(pool.known_hosts).write_bytes(b"\xff\xfe\x00 broken")  # noqa: ASYNC240
    with pytest.raises(HostKeyRefused, match="cannot be read"):
        await pool.connection(shown.spec)


class Recorder(asyncssh.SSHServer):
    """A server that lets anybody in and keeps what it is told."""

    told: ClassVar[list[str]] = []

    def begin_auth(self, username: str) -> bool:
        """Keep the name."""
        self.told.append(f"login as {username}")
        return False

    def session_requested(self) -> bool:
        """Keep that a session was asked for."""
        self.told.append("session")
        return False


async def test_a_server_with_another_key_hears_nothing(ca: Path) -> None:
    """A machine in between that lets anybody in learns neither a name nor a command."""
    Recorder.told.clear()
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen("127.0.0.1", 0, server_factory=Recorder, server_host_keys=[key])
    mine = NodeSpec("n1", "127.0.0.1", port=server.sockets[0].getsockname()[1], user="farm")
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    pool = quick_pool(user_ca=str(ca))
    with pytest.raises(HostKeyRefused):
        await pool.connection(replace(mine, host_key=other))
    assert Recorder.told == []
    right = key.export_public_key().decode().strip()
    with suppress(TransportError):
        await (await pool.connection(replace(mine, host_key=right))).run(["env"], 5)
    assert Recorder.told == ["login as farm", "session"], "the server does record"
    await pool.aclose()
    server.close()
    await server.wait_closed()


async def test_the_line_for_an_account_without_root(shown: OpenSSHNode, ca: Path) -> None:
    """What `agentfarm ca init` prints for authorized_keys is enough for all that the farm does, and no terminal."""
    public = Path(f"{ca}.pub").read_text()  # noqa: ASYNC240
    (shown.directory / "sshd" / "authorized_keys").write_text(f"cert-authority,restrict,port-forwarding {public}")
    async with linked(replace(shown.spec, ssh_keyfile=None), quick_pool(user_ca=str(ca))) as (_link, heard):
        await up(heard)
