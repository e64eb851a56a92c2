"""Hostile input, sent to a real Hub: refused with 400, or carried as plain text; nothing of it is ever executed.

Names, options by REST and by the form, and what a server writes into its log. Every value that a shell would execute
would make a file called ``pwned``; the last test looks for it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio
from configured_hub import configured
from hub_process import PASSWORD, HubProcess, hub_process
from ssh_node import SSHNode, ssh_node
from waiting import eventually
from yarl import URL

from jupyterhub_agentfarm.noded.directories import RUN

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

MEGABYTE = "A" * 1_000_000
MARKUP = "</pre></script><script>alert(1)</script><img src=x onerror=alert(1)>"
#: Names that JupyterHub lets through, or not.
NAMES = [
    "a$(touch pwned)",
    "a;touch pwned;",
    "a`touch pwned`",
    "a|touch pwned&",
    "a' \" touch pwned",
    "a\ntouch pwned\n",
    "a\r\nX-Injected: yes",
    "a\0b",
    "--help",
    "-rf",
    "{server_dir}",
    "{username}{environ}",
    "%s%n",
    "a\x1b[31mred",
    "<img src=x onerror=alert(1)>",
    "\u202eevil",
    "A" * 5000,
]
#: What is refused with 400, as JSON for the REST API, and as the form's fields where a form can say it.
REFUSED: list[tuple[Any, dict[str, str] | None]] = [
    ({"node": "n1; touch pwned"}, {"node": "n1; touch pwned"}),
    ({"node": "$(touch pwned)"}, {"node": "$(touch pwned)"}),
    ({"node": "n1\ntouch pwned"}, {"node": "n1\ntouch pwned"}),
    ({"node": "../../etc/passwd"}, {"node": "../../etc/passwd"}),
    ({"node": MARKUP}, {"node": MARKUP}),
    ({"node": MEGABYTE}, {"node": MEGABYTE}),
    ({"gpus": -1}, {"gpus": "-1"}),
    ({"gpus": 9}, {"gpus": "9"}),
    ({"gpus": 10**300}, {"gpus": str(10**300)}),
    ({"gpus": "$(touch pwned)"}, {"gpus": "$(touch pwned)"}),
    ({"gpus": 1.5}, {"gpus": "1.5"}),
    ({"gpus": True}, {"gpus": "True"}),
    ({"gpu_memory_bytes": -1}, {"gpu_memory_bytes": "-1"}),
    ({"gpu_memory_bytes": 10**300}, {"gpu_memory_bytes": str(10**300)}),
    ({"gpu_memory_bytes": "nan"}, {"gpu_memory_gib": "nan"}),
    ({"gpu_memory_bytes": float("inf")}, {"gpu_memory_gib": "1e999"}),
    ({"gpu_model": MEGABYTE}, {"gpu_model": MEGABYTE}),
    ({"labels": {"a": MEGABYTE}}, {"labels": f"a={MEGABYTE}"}),
    (
        {"labels": {f"k{number}": "v" for number in range(1000)}},
        {"labels": ",".join(f"k{number}=v" for number in range(1000))},
    ),
    ({"priority": 1}, {"priority": "1"}),
    ({"priority": -(10**30)}, {"priority": str(-(10**30))}),
    ({"kernel": "$(touch pwned)"}, {"kernel": "$(touch pwned)"}),
    ({"kernel": "../ir"}, {"kernel": "../ir"}),
    ({"kernel": MARKUP}, {"kernel": MARKUP}),
    ({"kernel": MEGABYTE}, {"kernel": MEGABYTE}),
    ({"cpus": -1}, {"cpus": "-1"}),
    ({"cpus": "$(touch pwned)"}, {"cpus": "$(touch pwned)"}),
    ({"cpus": float("inf")}, {"cpus": "1e999"}),
    ({"cpus": "nan"}, {"cpus": "nan"}),
    ({"memory_bytes": -1}, {"memory_bytes": "-1"}),
    ({"memory_bytes": 10**300}, {"memory_bytes": str(10**300)}),
    ({"memory_bytes": "nan"}, {"memory_gib": "nan"}),
    ({"restart": "always"}, {"restart": "always"}),
    ({"cmd": ["touch", "pwned"]}, {"cmd": "touch pwned"}),
    ({"environment": {"LD_PRELOAD": "x"}}, {"environment": "LD_PRELOAD=x"}),
    ({"__class__": "x"}, {"__class__": "x"}),
    ({MARKUP: 1}, {MARKUP: "1"}),
    ({MEGABYTE: 1}, {MEGABYTE: "1"}),
    ({"gpus": None}, None),
    ({"gpus": [1]}, None),
    ({"gpus": {"$gt": 0}}, None),
    ({"node": 1}, None),
    ({"node": ["n1"]}, None),
    ({"labels": []}, None),
    ({"labels": {"a": 1}}, None),
    ({"labels": {"a": None}}, None),
    ({"labels": "a=b"}, None),
    ({"gpu_model": 7}, None),
    (["gpus", 1], None),
    ("gpus", None),
    (7, None),
]
#: What is text like any other: no node has it, and nothing else happens.
INERT: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"gpus": 1, "gpu_model": "$(touch pwned)"}, {"gpus": "1", "gpu_model": "$(touch pwned)"}),
    ({"gpus": 1, "gpu_model": MARKUP}, {"gpus": "1", "gpu_model": MARKUP}),
    ({"labels": {"a;touch pwned": "`touch pwned`"}}, {"labels": "a;touch pwned=`touch pwned`"}),
    ({"labels": {"<b>": MARKUP}}, {"labels": f"<b>={MARKUP}"}),
    ({"node": "no-such-node"}, {"node": "no-such-node"}),
    ({"kernel": "no-such-kernel"}, {"kernel": "no-such-kernel"}),
    ({"cpus": 99_999}, {"cpus": "99999"}),
    ({"memory_bytes": 2**49}, {"memory_bytes": str(2**49)}),
]
EVIL = f"import sys; print({MARKUP!r} + chr(27) + '[31m' + chr(27) + ']0;pwned' + chr(7)); sys.exit(3)"
CONFIG = f"""
def evil(spawner):
    if spawner.user.name == "evil":
        spawner.cmd = ["{{python}}", "-c", {EVIL!r}]
c.Spawner.pre_spawn_hook = evil
"""


class World:
    """A Hub, its node, and a browser's session of the user ada."""

    def __init__(self, hub: HubProcess, node: SSHNode, browser: aiohttp.ClientSession) -> None:
        self.hub, self.node, self.browser = hub, node, browser

    async def log_in(self) -> None:
        """Log ada in."""
        await self._get("/hub/login")
        fields = {"username": "ada", "password": PASSWORD, "_xsrf": self._xsrf()}
        async with self.browser.post(f"{self.hub.url}/hub/login", data=fields) as answer:
            assert answer.status == 200
        assert "gpus" in await self._get("/hub/spawn/ada")

    async def _get(self, path: str) -> str:
        async with self.browser.get(self.hub.url + path) as answer:
            return await answer.text()

    def _xsrf(self) -> str:
        return self.browser.cookie_jar.filter_cookies(URL(f"{self.hub.url}/hub/"))["_xsrf"].value

    async def by_form(self, fields: Any) -> tuple[int, str]:
        """Return status and page that the options page's form is answered with."""
        url = f"{self.hub.url}/hub/spawn/ada?_xsrf={quote(self._xsrf())}"
        async with self.browser.post(url, data=fields, allow_redirects=False) as answer:
            return answer.status, await answer.text()

    async def by_rest(self, options: Any) -> tuple[int, Any]:
        """Return status and body that the REST API answers."""
        return await self.hub.api("POST", "/users/ada/server", options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    """Run a Hub with one node of one simulated GPU, and log ada in."""
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(ssh_node("n1", "127.0.0.11", sys.executable, 1))
        hub = await stack.enter_async_context(hub_process([node.spec], kind=configured(CONFIG)))

        async def eligible() -> bool:
            return all(node["eligible"] for node in await hub.farm.nodes())

        await eventually(eligible, "the node is eligible", timeout=60, interval=0.1)
        await hub.add_user("ada")
        browser = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)))
        result = World(hub, node, browser)
        await result.log_in()
        yield result
        assert pwned(result) == [], "something was executed"


def pwned(world: World) -> list[Path]:
    """Return the files that an executed value would have made."""
    places = [world.hub.directory, world.node.directory, Path.home(), Path.cwd(), RUN]
    found = [path for place in places for path in (*place.glob("pwned*"), *place.glob("*/pwned*"))]
    return found + [path for path in (Path("/pwned"), Path("/tmp/pwned")) if path.exists()]


@pytest.mark.parametrize(("options", "fields"), REFUSED, ids=lambda value: repr(value)[:40])
async def test_options_are_refused_by_rest_and_by_form_alike(
    world: World, options: Any, fields: dict[str, str] | None
) -> None:
    """Both ways answer 400; the form shows the reason as text; neither asks the farm for anything."""
    status, body = await world.by_rest(options)
    assert status == 400, body
    assert len(json.dumps(body)) < 2000
    if fields is not None:
        status, page = await world.by_form(fields)
        assert status == 400
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert len(page) < 100_000
    assert await world.hub.farm.leases() == []


@pytest.mark.parametrize(("options", "fields"), INERT, ids=lambda value: repr(value)[:40])
async def test_strange_texts_are_texts(world: World, options: dict[str, Any], fields: dict[str, str]) -> None:
    """What no node has is refused by both ways with 409 and a reason, with nothing as markup."""
    status, body = await world.by_rest(options)
    assert (status, bool(body["message"])) == (409, True), body
    status, page = await world.by_form(fields)
    assert status == 409
    assert "<script>alert" not in page
    assert await world.hub.farm.leases() == []


async def test_refused_options_are_not_kept(world: World) -> None:
    """The next start that names no options is not refused for those of the last one."""
    assert (await world.by_rest({"node": MARKUP}))[0] == 400
    _, model = await world.hub.api("GET", "/users/ada?include_stopped_servers=1")
    assert model["servers"][""]["user_options"] == {}


async def test_a_file_is_no_option(world: World) -> None:
    """A form with a file is refused like any unknown field."""
    form = aiohttp.FormData()
    form.add_field("node", b"n1", filename="$(touch pwned)", content_type="text/html")
    status, _ = await world.by_form(form)
    assert status == 400


@pytest.mark.parametrize("body", [b"{", b'{"gpus":', b"\xff\xfe", b"[" * 10_000, b'{"gpus": 1' + b"0" * 5000 + b"}"])
async def test_what_is_no_json_is_refused(world: World, body: bytes) -> None:
    """A body that cannot be read is answered 400."""
    headers = world.hub.headers() | {"Content-Type": "application/json"}
    url = f"{world.hub.url}/hub/api/users/ada/server"
    async with world.hub.http.post(url, data=body, headers=headers) as answer:
        assert answer.status == 400, await answer.text()


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:30])
async def test_strange_server_names_are_refused_or_carried(world: World, name: str) -> None:
    """A server's name and display name reach the controller as text, or are refused; none is an error of ours."""
    path = f"/users/ada/servers/{quote(name, safe='')}"
    for body in ({"user_options": {"node": "no-such-node"}}, {"display_name": name, "user_options": {"gpus": "1"}}):
        status, answer = await world.hub.api("POST", path, body)
        assert status in (400, 404, 409), answer
    await world.hub.api("DELETE", path, {"remove": True})
    assert await world.hub.farm.leases() == []


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:30])
async def test_strange_user_names_are_refused_or_carried(world: World, name: str) -> None:
    """A user's name reaches the controller as text, or is refused; none is an error of ours."""
    path = f"/users/{quote(name, safe='')}"
    status, body = await world.hub.api("POST", path)
    assert status in (201, 400, 404), body
    if status == 201:
        status, body = await world.hub.api("POST", f"{path}/server", {"node": "no-such-node"})
        assert status == 409, body
        await world.hub.api("DELETE", path)


async def test_a_server_of_a_hostile_name_runs_like_any_other(world: World) -> None:
    """On the node the user's name is one environment value; pages and lists have it as text."""
    user, name = "a$(touch pwned);`touch pwned`'\"<img src=x>{server_dir}", "lab"
    path = f"/users/{quote(user, safe='')}"
    assert (await world.hub.api("POST", path))[0] == 201
    server = f"{path}/servers/{quote(name, safe='')}"
    status, body = await world.hub.api("POST", server, {"gpus": 1})
    assert status in (201, 202), body

    async def model() -> Any:
        _, body = await world.hub.api("GET", path)
        return body["servers"][name]["ready"]

    await eventually(model, "the server is ready", timeout=60, interval=0.1)
    (lease,) = await world.hub.farm.leases()
    assert (lease.owner, lease.server_name) == (user, name)
    for page in ("/services/agentfarm/", "/hub/admin"):
        async with world.hub.http.get(world.hub.url + page, headers=world.hub.headers()) as answer:
            assert "<img src=x>" not in await answer.text()
    assert (await world.hub.api("DELETE", server, {"remove": True}))[0] in (202, 204)

    async def free() -> bool:
        return await world.hub.farm.leases() == []

    await eventually(free, "the server is stopped", timeout=30)
    await world.hub.api("DELETE", path)


async def test_a_servers_log_is_shown_as_text(world: World) -> None:
    """Markup and control sequences in the log of a server that ended are escaped in the progress, or left out."""
    await world.hub.add_user("evil")
    await world.hub.api("POST", "/users/evil/server")
    url = f"{world.hub.url}/hub/api/users/evil/server/progress"
    async with world.hub.http.get(url, headers=world.hub.headers()) as answer:
        text = await answer.text()
    events = [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line.startswith("data:")]
    assert events[-1]["failed"] is True
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in events[-1]["html_message"]
    for event in events:
        shown = event.get("html_message", "")
        assert "<script" not in shown
        assert "<img" not in shown
        assert "\x1b" not in shown
        assert "\x07" not in shown
    async with world.hub.http.get(f"{world.hub.url}/hub/spawn/evil", headers=world.hub.headers()) as answer:
        assert "<script>alert" not in await answer.text()


async def test_logs_cannot_be_forged(world: World) -> None:
    """No line of a log begins with what came from outside."""
    name = quote("x\n[C 2026-01-01 00:00:00.000 JupyterHub] forged", safe="")
    await world.hub.api("POST", f"/users/ada/servers/{name}", {"node": "no-such-node"})
    await world.hub.api("POST", "/users/ada/server", {"node": "x\n[C 2026] forged"})
    ours = re.compile(r"^\[C 2026", re.MULTILINE)
    assert not ours.search(world.hub.log_text())
    await world.hub.api("DELETE", f"/users/ada/servers/{name}", {"remove": True})
