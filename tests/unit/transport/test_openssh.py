"""The transport against OpenSSH's sshd, run as this user on 127.0.0.1."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncssh
import pytest
from link_listening import linked, quick_pool, up
from openssh import openssh_node, why_no_sshd
from ssh_node import noded_pid
from waiting import eventually

from jupyterhub_agentfarm.errors import HostKeyRefused, RemoteCommandFailed
from jupyterhub_agentfarm.transport import fetch_host_key

pytestmark = [pytest.mark.sshd, pytest.mark.skipif(bool(why_no_sshd()), reason=why_no_sshd())]


async def test_the_whole_path_over_openssh() -> None:
    """Noded is started, asked and survives sshd; commands run more at once than sshd's MaxSessions allows."""
    async with openssh_node() as node, linked(node.spec) as (a_link, heard):
        await up(heard)
        assert (await fetch_host_key(node.spec.host, node.spec.port)).line == node.spec.host_key
        texts = await asyncio.gather(*(a_link.client.logs(f"l{n}") for n in range(20)))
        assert texts[-1] == "log of l19"
        done = await asyncio.gather(*(a_link.run(["printf", "%s", "a b;$HOME"]) for _ in range(20)))
        assert {command.stdout for command in done} == {"a b;$HOME"}
        with pytest.raises(RemoteCommandFailed, match="status 3"):
            await a_link.run(["sh", "-c", "exit 3"])
        pid = noded_pid(node.state_dir)
        await node.stop()
        await eventually(lambda: heard.count("down"), "link down")
        await node.start()
        await up(heard, 2)
        assert noded_pid(node.state_dir) == pid


async def test_wrong_host_key_of_openssh_is_refused() -> None:
    """Another key than sshd's ends the connection before a command."""
    async with openssh_node() as node:
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        with pytest.raises(HostKeyRefused):
            await quick_pool().connection(replace(node.spec, host_key=other))
        assert noded_pid(node.state_dir) == 0


@pytest.mark.parametrize("options", ["AllowStreamLocalForwarding no", "AllowTcpForwarding no", "PermitOpen none"])
async def test_forbidden_socket_forwarding_names_the_options_to_set(options: str) -> None:
    """An sshd that forwards no sockets is the reason, and the options that decide it are named."""
    async with openssh_node(options=options) as node, linked(node.spec) as (_link, heard):
        await eventually(lambda: heard.errors, "the refusal is told")
        assert options.split(maxsplit=1)[0] in heard.errors[0].message
