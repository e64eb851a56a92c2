"""AI agents as users of a real Hub: what their tokens open, and what is taken from them, and when."""

from __future__ import annotations

import asyncio
import json
import sys
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agents_hub import AgentsHub
from configured_hub import configured
from hub_process import hub_process
from ssh_node import ssh_node
from waiting import eventually

pytestmark = [
    pytest.mark.hub,
    pytest.mark.sshd,
    pytest.mark.timeout(180),
    pytest.mark.asyncio(loop_scope="module"),
]


@dataclass
class Site:
    """A Hub with agents, and the tokens of two people."""

    agents: AgentsHub
    ada: str
    bob: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """One Hub for all, whose servers have a workspace of the tests' own."""
    workspace = tmp_path_factory.mktemp("workspace")
    kind = configured(f"c.Spawner.notebook_dir = {str(workspace)!r}")
    async with (
        ssh_node("n1", "127.0.0.11", sys.executable, simulated_gpus=2) as node,
        hub_process([node.spec], kind=kind, AGENTFARM_SERVICES="agentfarm,agents") as hub,
    ):
        agents = AgentsHub(hub)
        await agents.ready()
        yield Site(agents, await hub.add_user("ada"), await hub.add_user("bob"))


async def test_an_agents_token_is_what_it_was_made_for(site: Site) -> None:
    """With it the agent sees itself and its limits, starts a server at the Hub, and executes there."""
    token = await site.agents.register("scout", description="looks around", kernels=["python3"])
    _, me = await site.agents.hub.api("GET", "/user", token=token)
    assert (me["name"], me["groups"]) == ("scout", ["agents"])
    status, view = await site.agents.ask("GET", "agents/scout", token=token)
    assert (status, view["owner"], view["kernels"]) == (200, "ada", ["python3"])
    await site.agents.start_server("scout", "work", token)
    assert await site.agents.server_status("scout", "work", token) == 200

    async def shown() -> Any:
        return (await site.agents.ask("GET", "agents/scout"))[1]["servers"]

    (server,) = await eventually(shown, "the server is shown")
    assert (server["name"], server["node"], server["url"]) == ("work", "n1", "/user/scout/work/")


#: What an agent's token must not do, and how it is refused: (method, path at the Hub, body) -> status.
FORBIDDEN: list[tuple[str, str, Any, int]] = [
    ("GET", "/users", None, 403),
    ("GET", "/users/ada", None, 404),
    ("GET", "/users/other", None, 404),
    ("GET", "/groups", None, 403),
    ("GET", "/services", None, 403),
    ("GET", "/info", None, 403),
    ("GET", "/proxy", None, 403),
    ("POST", "/users/eve", {}, 403),
    ("PATCH", "/users/prober", {"admin": True}, 403),
    ("DELETE", "/users/prober", None, 403),
    ("DELETE", "/users/ada", None, 403),
    ("POST", "/users/ada/server", {}, 404),
    ("POST", "/users/other/server", {}, 404),
    ("DELETE", "/users/other/servers/work", None, 404),
    ("POST", "/users/prober/tokens", {}, 403),
    ("POST", "/users/prober/tokens", {"scopes": ["admin:users"]}, 403),
    ("POST", "/users/other/tokens", {}, 403),
    ("GET", "/users/prober/tokens", None, 403),
    ("POST", "/groups/agents/users", {"users": ["prober"]}, 403),
    ("POST", "/groups/ops", {}, 403),
    ("POST", "/shares/prober/work", {"user": "bob"}, 403),
    ("POST", "/shares/other/work", {"user": "prober"}, 403),
    ("POST", "/shutdown", {}, 403),
]


async def test_an_agent_reaches_nobody_else(site: Site) -> None:
    """The Hub's API, other agents' servers and views, and the registry are closed to its token."""
    token, other = await site.agents.register("prober"), await site.agents.register("other")
    await site.agents.start_server("other", "work", other)
    wrong = []
    for method, path, body, wanted in FORBIDDEN:
        status, answer = await site.agents.hub.api(method, path, body, token=token)
        if status != wanted:
            wrong.append(f"{method} {path}: {status}, not {wanted}: {answer}")
    assert not wrong, "\n" + "\n".join(wrong)
    assert await site.agents.server_status("other", "work", other) == 200
    assert await site.agents.server_status("other", "work", token) == 403
    assert (await site.agents.ask("GET", "agents/other", token=token))[0] == 404
    assert [agent["name"] for agent in (await site.agents.ask("GET", "agents", token=token))[1]["agents"]] == ["prober"]
    for path in ("agents", "agents/other/token", "agents/other/retire", "agents/prober/resume"):
        assert (await site.agents.ask("POST", path, {"name": "eve"}, token=token))[0] == 403
    assert (await site.agents.ask("PATCH", "agents/prober", {}, token=token))[0] == 403
    leases = f"{site.agents.hub.url}/services/agentfarm/api/v1/"
    _, seen = await site.agents.get_json(f"{leases}leases", token)
    assert [lease["owner"] for lease in seen["leases"] if lease["owner"] != "prober"] == []
    limits = f"{leases}owners/prober/limits"
    assert (await site.agents.get_json(limits, token, "PUT", {"servers": 99}))[0] == 403


async def test_owner_and_nobody_else_may_watch(site: Site) -> None:
    """A server that the agent started is shared with its owner, and with the next one when it has another."""
    token = await site.agents.register("watched")
    await site.agents.start_server("watched", "work", token)
    status_for = site.agents.server_status

    async def opens(person: str) -> bool:
        return await status_for("watched", "work", person) == 200

    await eventually(lambda: opens(site.ada), "ada may open it", interval=0.2)
    assert not await opens(site.bob)
    assert (await site.agents.ask("GET", "agents/watched", token=site.ada))[0] == 200
    assert (await site.agents.ask("GET", "agents/watched", token=site.bob))[0] == 404

    assert (await site.agents.ask("PATCH", "agents/watched", {"owner": "bob"}))[0] == 200
    shares = "/shares/watched"

    async def bobs() -> bool:
        _, found = await site.agents.hub.api("GET", shares)
        return [share["user"]["name"] for share in found["items"]] == ["bob"]

    await eventually(bobs, "only bob has a share")
    assert (await site.agents.ask("GET", "agents/watched", token=site.ada))[0] == 404


async def test_the_owner_watches_with_a_token_of_their_own(site: Site) -> None:
    """A token of the owner for one shared server opens its REST and WebSocket, and nothing else of anybody's."""
    token = await site.agents.register("shown")
    for name in ("work", "other"):
        await site.agents.start_server("shown", name, token)
    hub, status_for = site.agents.hub, site.agents.server_status

    async def shared() -> bool:
        return await status_for("shown", "work", site.ada) == 200 == await status_for("shown", "other", site.ada)

    await eventually(shared, "both are shared", interval=0.2)
    body = {"scopes": ["access:servers!server=shown/work"], "note": "VS Code", "expires_in": 600}
    assert (await hub.api("POST", "/users/bob/tokens", body, token=site.bob))[0] == 400
    status, made = await hub.api("POST", "/users/ada/tokens", body, token=site.ada)
    names = {"read:users:name!user=ada", "read:users:groups!user=ada"}  # which every token can tell of its user
    assert (status, set(made["scopes"]) - names) == (201, set(body["scopes"])), made
    base, watching = f"{hub.url}/user/shown/work/api/", made["token"]
    for path in ("status", "kernelspecs", "sessions", "contents"):
        assert (await site.agents.get_json(base + path, watching))[0] == 200, path
    _, kernel = await site.agents.get_json(f"{base}kernels", watching, "POST", {"name": "python3"})
    channels = f"{base}kernels/{kernel['id']}/channels"
    async with hub.http.ws_connect(channels, headers=hub.headers(watching)) as socket:
        assert (await socket.receive_json(timeout=30))["msg_type"] == "status"
    assert await status_for("shown", "other", watching) == 403
    assert (await hub.api("GET", "/users/ada/tokens", token=watching))[0] in (403, 404)
    assert (await hub.api("POST", "/users/ada/server", {}, token=watching))[0] in (403, 404)
    assert (await hub.api("DELETE", "/users/shown/servers/work", token=watching))[0] in (403, 404)
    assert (await site.agents.ask("GET", "agents", token=watching))[0] == 403


async def test_a_new_token_ends_the_old_one(site: Site) -> None:
    """Hub and service refuse the old one at once; servers go on."""
    token = await site.agents.register("rotated")
    await site.agents.start_server("rotated", "work", token)
    status, made = await site.agents.ask("POST", "agents/rotated/token", {"expires_in_seconds": 600})
    assert status == 201
    assert (await site.agents.hub.api("GET", "/user", token=token))[0] == 403
    assert (await site.agents.ask("GET", "agents/rotated", token=token))[0] == 401
    assert (await site.agents.ask("GET", "agents/rotated", token=made["token"]))[0] == 200
    assert await site.agents.server_status("rotated", "work", made["token"]) == 200


async def test_a_suspended_agent_is_shut_out_at_once(site: Site) -> None:
    """Its token opens neither Hub nor service nor its server, which is gone; resumed, it needs a new token."""
    token = await site.agents.register("paused")
    await site.agents.start_server("paused", "work", token)
    assert await site.agents.server_status("paused", "work", token) == 200  # which its server remembers
    status, view = await site.agents.ask("POST", "agents/paused/suspend", {"reason": "too loud"})
    assert (status, view["state"], view["detail"], view["left_to_do"]) == (200, "suspended", "too loud (admin)", "")
    assert (await site.agents.hub.api("GET", "/user", token=token))[0] == 403
    assert (await site.agents.ask("GET", "agents", token=token))[0] == 401
    assert await site.agents.server_status("paused", "work", token) != 200
    assert [lease.owner for lease in await site.agents.hub.farm.leases() if lease.owner == "paused"] == []
    assert (await site.agents.ask("POST", "agents/paused/token", {}))[0] == 409

    status, answer = await site.agents.hub.api("POST", "/users/paused/servers/again", {})  # not even by an admin
    assert (status, "may have 0 servers" in answer["message"]) == (409, True)

    assert (await site.agents.ask("POST", "agents/paused/resume", {}))[1]["state"] == "active"
    _, made = await site.agents.ask("POST", "agents/paused/token", {})
    await site.agents.start_server("paused", "work", made["token"])


async def test_a_retired_agent_is_gone_and_its_name_reserved(site: Site) -> None:
    """Token, server and Hub user are gone when the answer comes; nobody gets the name."""
    token = await site.agents.register("old")
    await site.agents.start_server("old", "work", token)
    status, view = await site.agents.ask("POST", "agents/old/retire", {"reason": "done"})
    assert (status, view["state"], view["left_to_do"]) == (200, "retired", "")
    assert (await site.agents.hub.api("GET", "/user", token=token))[0] == 403
    assert (await site.agents.ask("GET", "agents", token=token))[0] == 401
    assert await site.agents.server_status("old", "work", token) != 200
    assert (await site.agents.hub.api("GET", "/users/old"))[0] == 404
    status, refused = await site.agents.ask("POST", "agents", {"name": "old", "owner": "ada"})
    assert (status, refused["reason"]) == (409, "conflict")
    assert "old" not in [agent["name"] for agent in (await site.agents.ask("GET", "agents"))[1]["agents"]]
    assert "old" in [agent["name"] for agent in (await site.agents.ask("GET", "agents?all=1"))[1]["agents"]]


async def test_an_agents_files_are_packed_before_it_is_gone(site: Site) -> None:
    """A running server of the agent shows them; without one nothing can be packed, and nothing is done."""
    token = await site.agents.register("writer")
    refused = await site.agents.ask("POST", "agents/writer/retire", {"workspace": "archive"})
    assert (refused[0], refused[1]["reason"]) == (409, "conflict")
    await site.agents.start_server("writer", "work", token)
    contents = f"{site.agents.hub.url}/user/writer/work/api/contents/"
    assert (await site.agents.get_json(f"{contents}kept", token, "PUT", {"type": "directory"}))[0] == 201
    body = {"type": "file", "format": "text", "content": "42"}
    assert (await site.agents.get_json(f"{contents}kept/the answer.txt", token, "PUT", body))[0] == 201

    async def packable() -> Any:
        status, view = await site.agents.ask("POST", "agents/writer/retire", {"workspace": "archive"})
        return view if status in (200, 202) else None

    await eventually(packable, "the service knows that the server runs")
    assert (await site.agents.hub.api("GET", "/user", token=token))[0] == 403

    async def settled() -> Any:
        view = (await site.agents.ask("GET", "agents/writer"))[1]
        return view if view["state"] == "retired" and not view["left_to_do"] else None

    view = await eventually(settled, "it is packed and gone", timeout=60)
    archive = site.agents.hub.directory / "agent-archives" / "writer.tar.gz"
    assert view["detail"] == f"by admin; its files are in {archive}"
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as packed:
        assert packed.getnames() == ["writer/n1/kept/the answer.txt"]
        file = packed.extractfile("writer/n1/kept/the answer.txt")
        assert file is not None
        assert file.read() == b"42"
    assert (await site.agents.hub.api("GET", "/users/writer"))[0] == 404


async def test_an_expired_agent_is_retired(site: Site) -> None:
    """Nobody has to ask for it; its token ended with it."""
    token = await site.agents.register("brief", expires_in_seconds=3.0)

    async def retired() -> bool:
        _, view = await site.agents.ask("GET", "agents/brief")
        return (view["state"], view["detail"], view["left_to_do"]) == ("retired", "expired", "")

    await eventually(retired, "it is retired", timeout=30)
    assert (await site.agents.hub.api("GET", "/user", token=token))[0] == 403
    assert (await site.agents.hub.api("GET", "/users/brief"))[0] == 404


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"name": "ada"}, 409, "the Hub has a user ada already"),
        ({"name": "Bad_Name"}, 400, "name must be 1-63 lower-case letters"),
        ({"owner": "nobody"}, 400, "owner must be a user of the Hub"),
        ({"projects": ["secret"]}, 409, "configure(c, projects"),
        ({"labels": {"x": "y" * 101}}, 400, "labels"),
        ({"kernels": ["../x"]}, 400, "kernels"),
        ({"token_expires_in_seconds": 1.0}, 400, "token_expires_in_seconds"),
        ({"limits": {"gpus": -1}}, 400, "limits.gpus"),
        ({"unknown": 1}, 400, "unknown"),
    ],
)
async def test_what_cannot_be_registered_leaves_nothing(
    site: Site, fields: dict[str, Any], status: int, said: str
) -> None:
    """It is refused with a sentence that names what is wrong; the name stays free, at the Hub too."""
    found, answer = await site.agents.ask("POST", "agents", {"name": "newcomer", "owner": "ada", **fields})
    assert found == status, answer
    assert said in answer["message"]
    assert (await site.agents.hub.api("GET", "/users/newcomer"))[0] == 404
    assert (await site.agents.ask("GET", "agents/newcomer"))[0] == 404


async def command(site: Site, *words: str) -> tuple[int, str, str]:
    """Run `agentfarm agents …` on the Hub's machine; return status, stdout and stderr."""
    runtime_dir = site.agents.hub.environment["AGENTFARM_RUNTIME_DIR"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyterhub_agentfarm.cli", "agents", *words, "--runtime-dir", runtime_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_whole_life_from_the_command_line(site: Site, tmp_path: Path) -> None:
    """The token alone is on stdout, or in a private file; what is said is on stderr."""
    file = tmp_path / "token"
    done = await command(site, "register", "typed", "--owner", "ada", "--gpus", "2", "--token-file", str(file))
    assert (done[0], done[1]) == (0, ""), done
    assert file.stat().st_mode & 0o777 == 0o600
    token = file.read_text().strip()
    assert (await site.agents.hub.api("GET", "/user", token=token))[1]["name"] == "typed"
    status, out, _ = await command(site, "list")
    assert status == 0
    assert ["typed", "active", "ada"] in [line.split()[:3] for line in out.splitlines()]
    assert (await command(site, "change", "typed", "--gpus", "1", "--expires", "1d"))[0] == 0
    _, out, _ = await command(site, "show", "typed", "--json")
    assert json.loads(out)["limits"] == {"servers": 2, "gpus": 1, "gpu_hours": None}
    status, new, said = await command(site, "token", "typed")
    assert status == 0
    assert "not shown again" in said
    assert (await site.agents.hub.api("GET", "/user", token=new.strip()))[1]["name"] == "typed"
    assert (await site.agents.hub.api("GET", "/user", token=token))[0] == 403
    assert (await command(site, "suspend", "typed", "--reason", "lunch"))[1] == "typed is suspended.\n"
    assert (await command(site, "resume", "typed"))[0] == 0
    assert (await command(site, "retire", "typed"))[1] == "typed is retired.\n"
    status, _, said = await command(site, "token", "typed")
    assert (status, said) == (1, "agentfarm: the agent typed is retired, not active\n")
