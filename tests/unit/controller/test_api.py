"""The REST API's contract: who may what, what is shown to whom, and the form of errors."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from controllers import Controller, controller
from hub_double import HubDouble, hub_double
from node_records import gpu, request, telemetry

from jupyterhub_agentfarm.controller.client import FarmClient
from jupyterhub_agentfarm.controller.farm_handler import (
    LEASES_MANAGE,
    LEASES_READ,
    NODES_KEEP,
    NODES_MANAGE,
    NODES_READ,
)
from jupyterhub_agentfarm.errors import (
    AgentFarmError,
    ConflictError,
    FarmUnavailable,
    InvalidField,
    NodeUnreachable,
    NotFoundError,
    PlacementRefused,
    QuotaExceeded,
)
from jupyterhub_agentfarm.models import LaunchOrder, NodeSpec
from jupyterhub_agentfarm.records import to_json

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


@pytest.fixture
async def hub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HubDouble]:
    """A Hub's answers, and its environment."""
    async with hub_double() as double:
        for name, value in double.environment.items():
            monkeypatch.setenv(name, value)
        yield double


@pytest.fixture
async def farm(tmp_path: Path, hub: HubDouble) -> AsyncIterator[Controller]:
    """A controller with one node that never answers but is made to look ready, with one GPU."""
    spec = NodeSpec(name="a", host="127.0.0.1", port=1, host_key=KEY, ssh_keyfile="/secret/key")
    async with controller(tmp_path, config={"Inventory": {"nodes": [to_json(spec)]}}) as made:
        entry = made.app.farm.inventory._entries["a"]
        await entry.link.aclose()
        entry.node = replace(entry.node, state="ready", detail="connected", telemetry=telemetry(gpu("GPU-a")))
        entry.node = replace(entry.node, reported_at=2e10)
        made.app.farm._reconciler._reconciled.add("a")
        yield made


def with_token(farm: Controller, token: str) -> FarmClient:
    """Return a client with a Hub token."""
    return FarmClient(runtime_dir=farm.app.runtime_dir, token=token)


async def call(farm: Controller, method: str, path: str, token: str = "", body: Any = None) -> tuple[int, Any]:
    """Return status and body of a request."""
    headers = {"Authorization": f"token {token}"} if token else {}
    url = farm.client._base() + "api/v1/" + path
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=body, headers=headers, allow_redirects=False) as response,
    ):
        return response.status, await response.json()


NEEDS = [
    ("GET", "nodes", NODES_READ),
    ("POST", "nodes", NODES_MANAGE),
    ("POST", "nodes/scan", NODES_MANAGE),
    ("GET", "nodes/a", NODES_READ),
    ("DELETE", "nodes/a", NODES_MANAGE),
    ("GET", "nodes/a/environment", NODES_MANAGE),
    ("POST", "nodes/a/cordon", NODES_MANAGE),
    ("POST", "nodes/a/uncordon", NODES_MANAGE),
    ("POST", "nodes/a/drain", NODES_MANAGE),
    ("POST", "nodes/a/restart-noded", NODES_MANAGE),
    ("POST", "nodes/a/keep", NODES_KEEP),
    ("POST", "nodes/a/give-back", NODES_KEEP),
    ("POST", "leases", LEASES_MANAGE),
    ("POST", "leases/" + "0" * 32 + "/launch", LEASES_MANAGE),
    ("GET", "queue", NODES_READ),
    ("GET", "placements", LEASES_READ),
    ("GET", "events", NODES_READ),
]


@pytest.mark.parametrize(("method", "path", "scope"), NEEDS)
async def test_scopes(farm: Controller, hub: HubDouble, method: str, path: str, scope: str) -> None:
    """Nobody gets 401, a token without the scope 403, one without access to the service 403 as well."""
    others = {NODES_READ, NODES_MANAGE, NODES_KEEP, LEASES_READ, LEASES_MANAGE} - {scope}
    assert (await call(farm, method, path))[0] == 401
    assert (await call(farm, method, path, "wrong"))[0] == 401
    status, error = await call(farm, method, path, hub.token("eve", *others))
    assert (status, error["reason"]) == (403, "forbidden")
    assert scope in error["message"]
    assert "the role agentfarm-admin" in error["message"]
    status, error = await call(farm, method, path, hub.token("eve", scope, service="other"))
    assert (status, error["message"]) == (403, "eve has no access to the service agentfarm")


async def test_a_user_sees_and_stops_their_own(farm: Controller, hub: HubDouble) -> None:
    """A user sees that a GPU is leased, and whose it is only when it is theirs; the line hides names of others."""
    lease = await farm.client.place(request("ada", gpus=1))
    await farm.client.place(request("bob", gpus=1))
    ada, bob = (with_token(farm, hub.token(name, NODES_READ)) for name in ("ada", "bob"))
    own = (await ada.node("a"))["telemetry"]["gpus"][0]
    assert (own["leased"], own["lease"], own["owner"]) == (True, lease.id, "ada")
    other = (await bob.node("a"))["telemetry"]["gpus"][0]
    assert (other["leased"], other["lease"], other["owner"]) == (True, None, None)
    assert [item.owner for item in await bob.leases()] == ["bob"]
    assert [item["owner"] for item in await ada.queue()] == [None]
    assert [item["owner"] for item in await bob.queue()] == ["bob"]
    with pytest.raises(NotFoundError):
        await bob.lease(lease.id)
    with pytest.raises(NotFoundError):
        await bob.release(lease.id)
    assert (await ada.release(lease.id)).state == "stopping"
    reader = with_token(farm, hub.token("eve", LEASES_READ))
    assert (await reader.lease(lease.id)).owner == "ada"
    with pytest.raises(AgentFarmError, match=LEASES_MANAGE):
        await reader.release(lease.id)
    service = with_token(farm, hub.token("ada", kind="service"))
    assert await service.leases() == []
    for client in (ada, bob, reader, service):
        await client.aclose()


async def test_errors_come_back_as_they_were(farm: Controller) -> None:
    """The client raises what the controller raised, with its facts."""
    with pytest.raises(PlacementRefused) as refused:
        await farm.client.place(request(gpus=2))
    assert refused.value.refusals == {"a": "needs 2 GPUs, it has 1"}
    with pytest.raises(ConflictError, match="is declared in the configuration"):
        await farm.client.remove_node("a")
    with pytest.raises(NotFoundError, match="there is no node b; the nodes are: a"):
        await farm.client.cordon("b", "why")
    with pytest.raises(InvalidField, match="host_key must be the node's public host key") as invalid:
        await farm.client.add_node(NodeSpec(name="b", host="h"))
    assert invalid.value.field == "host_key"
    lease = await farm.client.place(request(gpus=1))
    with pytest.raises(NodeUnreachable, match=r"^node a: ") as lost:
        await farm.client.launch(lease.id, LaunchOrder(("x",), "/"))
    assert lost.value.node == "a"
    with pytest.raises(NodeUnreachable):
        await farm.client.log(lease.id)


async def test_no_controller(tmp_path: Path) -> None:
    """Without a controller every question is FarmUnavailable, with what to do."""
    client = FarmClient(runtime_dir=str(tmp_path))
    with pytest.raises(FarmUnavailable, match="start the Hub"):
        await client.nodes()
    (tmp_path / "agentfarm.json").write_text('{"url": "http://127.0.0.1:1/services/agentfarm/"}')
    with pytest.raises(FarmUnavailable, match="see the log of the agentfarm service"):
        await client.nodes()
    with pytest.raises(FarmUnavailable):
        await anext(client.events())
    await client.aclose()


BAD = [
    ("POST", "leases", {"owner": "ada"}, "server_name must be given"),
    ("POST", "leases", {"owner": "ada", "server_name": "", "options": {"gpus": 17}}, "gpus must be a whole number"),
    ("POST", "leases", {"owner": "ada", "server_name": "", "colour": 1}, "colour must be one of"),
    ("POST", "nodes/a/cordon", {"why": "x"}, "why must be one of"),
    ("POST", "nodes/a/drain", {"reason": "x", "deadline_seconds": -1}, "deadline_seconds must be a number of seconds"),
    ("GET", "placements?limit=x", None, "limit must be a number from 0 to 200"),
    ("GET", "leases?all=2", None, "all must be 0 or 1"),
]


@pytest.mark.parametrize(("method", "path", "body", "message"), BAD)
async def test_bad_input(farm: Controller, method: str, path: str, body: Any, message: str) -> None:
    """A wrong field is a 400 that names it and the wanted form."""
    token = Path(farm.app.runtime_dir, "token").read_text()  # noqa: ASYNC240
    status, error = await call(farm, method, path, token, body)
    assert (status, error["reason"]) == (400, "invalid")
    assert error["message"].startswith(message)


async def test_a_bad_number_about_a_lease(farm: Controller, hub: HubDouble) -> None:
    """Whose lease it is comes before what is wrong with the request: a stranger learns nothing of it."""
    lease = await farm.client.place(request("ada", gpus=1))
    ada, eve = hub.token("ada"), hub.token("eve")
    for method, path in (("DELETE", f"leases/{lease.id}?grace_seconds=-1"), ("GET", f"leases/{lease.id}/log?lines=x")):
        assert (await call(farm, method, path, eve))[0] == 404
        status, error = await call(farm, method, path, ada)
        assert (status, error["reason"]) == (400, "invalid")


async def test_bodies_are_bounded_and_declared(farm: Controller) -> None:
    """A body beyond the limit is 413, one that is not declared as JSON 415, one that JSON does not have 400."""
    token = Path(farm.app.runtime_dir, "token").read_text()  # noqa: ASYNC240
    url = farm.client._base() + "api/v1/nodes/a/cordon"
    headers = {"Authorization": f"token {token}"}
    json_headers = headers | {"Content-Type": "application/json"}
    large = b" " * (int(farm.app.max_body) + 1)

    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 2**20):
            yield large[start : start + 2**20]

    cases: list[tuple[dict[str, str], Any, int, str]] = [
        (json_headers, io.BytesIO(large), 413, "too_large"),
        (json_headers, stream(), 413, "too_large"),
        (headers | {"Content-Type": "text/plain"}, b"{}", 415, "content_type"),
        (headers | {"Content-Type": "application/x-www-form-urlencoded"}, b"reason=x", 415, "content_type"),
        (json_headers | {"Content-Type": "Application/JSON; charset=utf-8"}, b'{"reason": "\\ud800"}', 400, "invalid"),
        (json_headers, b'{"reason": "\xed\xa0\x80"}', 400, "invalid"),
        (json_headers, '{"reason": "\\ud800"}'.encode("utf-16"), 400, "invalid"),
        (json_headers, b'{"deadline_seconds": NaN}', 400, "invalid"),
        (json_headers, b'{"deadline_seconds": 1e999}', 400, "invalid"),
        (json_headers, b'{"deadline_seconds": 1' + b"0" * 400 + b"}", 400, "invalid"),
        (json_headers, b"[" * 100_000, 400, "invalid"),
    ]
    async with aiohttp.ClientSession() as session:
        for sent, body, status, reason in cases:
            async with session.post(url, data=body, headers=sent) as response:
                answer = await response.json()
                assert (response.status, answer["reason"]) == (status, reason), answer
        async with session.post(url, data=io.BytesIO(large)) as nobody:
            assert nobody.status == 401, "who asks comes first"
    assert (await farm.client.node("a"))["cordon"] is None


async def test_node_view_and_history(farm: Controller) -> None:
    """A node's view has status and eligible and no key path; released leases and their reasons can be read."""
    view = await farm.client.node("a")
    assert (view["name"], view["status"], view["eligible"]) == ("a", "ready", True)
    assert "ssh_keyfile" not in view["spec"]
    lease = await farm.client.place(request(gpus=1))
    waiting = await farm.client.place(request("bob", gpus=1))
    await farm.client.release(waiting.id)
    assert [item.id for item in await farm.client.leases()] == [lease.id]
    assert {item.id for item in await farm.client.leases(all=True)} == {lease.id, waiting.id}
    newest, oldest = await farm.client.placements(limit=2)
    assert (newest["lease"], oldest["lease"]) == (waiting.id, lease.id)
    assert oldest["why"]["candidates"][0]["scores"].keys() >= {"cpu", "memory", "load", "spread"}


async def test_browser(farm: Controller, hub: HubDouble) -> None:
    """A browser logs in through OAuth, gets the page, and its cookie changes nothing without the XSRF token."""
    base = farm.client._base()
    token = hub.token("root", NODES_READ, NODES_MANAGE)
    origin = base.partition("/services/")[0]
    fetched = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    navigated = {"Sec-Fetch-Mode": "navigate"}
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        async with browser.get(base, headers=navigated, allow_redirects=False) as sent_to_login:
            assert sent_to_login.status == 302
            state = aiohttp.client.URL(sent_to_login.headers["Location"]).query["state"]
        back = {"code": token, "state": state}
        async with browser.get(base + "oauth_callback", params=back, allow_redirects=False) as logged_in:
            assert logged_in.status == 302
            assert origin + logged_in.headers["Location"] == base
        async with browser.get(base, headers=navigated) as page:
            text = await page.text()
            assert page.status == 200
            assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        xsrf = text.split('data-xsrf="')[1].split('"')[0]
        url = base + "api/v1/nodes/a/cordon"
        for headers in ({}, fetched, fetched | {"X-XSRFToken": "wrong"}):
            async with browser.post(url, json={"reason": "x"}, headers=headers) as refused:
                assert refused.status == 401, headers
        async with browser.post(url, json={"reason": "x"}, headers=fetched | {"X-XSRFToken": xsrf}) as accepted:
            assert (accepted.status, (await accepted.json())["cordon"]["by"]) == (200, "root")
        async with browser.get(base + "api/v1/events", params={"_xsrf": xsrf}, headers=fetched) as events:
            assert events.status == 200
            assert (await events.content.readline()) == b"event: snapshot\n"
        for static in ("common.js", "farm.js", "agentfarm.css", "favicon.svg"):
            async with browser.get(f"{base}static/{static}") as file:
                assert file.status == 200


async def test_usage(farm: Controller, hub: HubDouble) -> None:
    """A user reads their own use, who may read leases everybody's; limits are those of the owner's groups."""
    farm.app.farm.policy.max_gpus_per_owner = 2
    farm.app.farm.policy.group_max_gpu_hours = {"lab": 10.0}
    await farm.client.place(replace(request("ada", gpus=1), groups=("lab",)))
    await farm.client.place(request("bob"))
    ada, eve = with_token(farm, hub.token("ada")), with_token(farm, hub.token("eve", LEASES_READ))
    own = await ada.usage()
    assert (own["window_seconds"], [entry["owner"] for entry in own["usage"]]) == (7 * 86400, ["ada"])
    every = (await eve.usage())["usage"]
    assert [(each["owner"], each["gpus"], each["max_gpus"], each["servers"]) for each in every] == [
        ("ada", 1, 2, 1),
        ("bob", 0, 2, 1),
    ]
    assert [each["max_gpu_seconds"] for each in every] == [36000, None]
    assert 0 < every[0]["gpu_seconds"] < 60
    assert every[1]["gpu_seconds"] == 0
    assert own["pools"] == []
    assert (await call(farm, "GET", "usage"))[0] == 401
    for client in (ada, eve):
        await client.aclose()


async def test_usage_of_pools(farm: Controller, hub: HubDouble) -> None:
    """A user reads the pools of their own groups, who may read leases all, without limit where none is set."""
    farm.app.farm.policy.group_pool_gpus = {"lab": 3, "ops": 5}
    farm.app.farm.policy.group_pool_gpu_hours = {"lab": 10.0}
    await farm.client.place(replace(request("ada", gpus=1), groups=("lab", "others")))
    await farm.client.place(replace(request("bob"), groups=("lab",)))
    tokens = hub.token("ada"), hub.token("eve", LEASES_READ), hub.token("ada", kind="service")
    hub.models[tokens[0]]["groups"] = ["lab", "others"]
    ada, eve, service = (with_token(farm, token) for token in tokens)
    (lab,) = (await ada.usage())["pools"]
    assert 0 < lab.pop("gpu_seconds") < 60
    assert lab == {
        "group": "lab", "servers": 2, "max_servers": None, "gpus": 1, "max_gpus": 3, "max_gpu_seconds": 36000,
    }  # fmt: skip
    assert [(each["group"], each["gpus"], each["max_gpu_seconds"]) for each in (await eve.usage())["pools"]] == [
        ("lab", 1, 36000),
        ("ops", 0, None),
    ]
    assert (await service.usage())["pools"] == []
    for client in (ada, eve, service):
        await client.aclose()


async def test_a_quota_is_refused_with_its_facts(farm: Controller) -> None:
    """Who has used the GPU-hours is answered 403 with the reason `quota`, the figures, and when hours are free."""
    farm.app.farm.policy.max_gpu_hours_per_owner = 1e-9
    await farm.client.place(request("ada", gpus=1))
    with pytest.raises(QuotaExceeded, match=r"ada used 0\.0 of 1e-09 GPU-hours in 7 days") as refused:
        await farm.client.place(request("ada", "second", gpus=1))
    facts = refused.value.facts()
    assert (facts["quota"], facts["limit"]) == ("gpu_hours", 1e-9)
    assert facts["frees_at"] > farm.app.farm.book.now() + 6.9 * 86400
    assert (await farm.client.place(request("ada", "third"))).state == "granted"


@pytest.mark.parametrize("limited", ["max_gpu_hours_per_owner", "group_pool_gpu_hours"])
async def test_usage_tells_when_hours_are_free(farm: Controller, limited: str) -> None:
    """Of whoever has used them up, alone or with a group, the report says what the refusal does; of others nothing."""
    own = limited == "max_gpu_hours_per_owner"
    setattr(farm.app.farm.policy, limited, 1e-9 if own else {"lab": 1e-9, "ops": 5.0})
    await farm.client.place(replace(request("ada", gpus=1), groups=("lab", "ops")))
    await farm.client.place(replace(request("bob"), groups=("ops",)))
    with pytest.raises(QuotaExceeded) as refused:
        await farm.client.place(replace(request("ada", "second", gpus=1), groups=("lab", "ops")))
    ada, bob = (await farm.client.usage())["usage"]
    assert ada["gpu_hours_free_at"] == pytest.approx(refused.value.facts()["frees_at"], abs=5)
    assert bob["gpu_hours_free_at"] is None
    setattr(farm.app.farm.policy, limited, 9.0 if own else {"lab": 9.0})
    assert (await farm.client.usage())["usage"][0]["gpu_hours_free_at"] is None
