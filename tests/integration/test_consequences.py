"""What follows from a node's failure and a server's death, with everything real: route, reason, restart, count."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from controllers import alive
from hub_process import PASSWORD, HubProcess, hub_process
from ssh_node import SSHNode, ssh_node
from waiting import eventually

from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.share import share_path

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240)]

RESTART = {"restart": "on-node-failure"}


class Site:
    """A Hub, and its nodes by name."""

    def __init__(self, hub: HubProcess, nodes: dict[str, SSHNode]) -> None:
        self.hub, self.nodes = hub, nodes

    async def nodes_ready(self, count: int) -> None:
        """Wait until the farm has so many eligible nodes."""

        async def ready() -> bool:
            return sum(node["eligible"] for node in await self.hub.farm.nodes()) == count

        await eventually(ready, f"{count} nodes are eligible", timeout=60, interval=0.1)

    async def lease_of(self, user: str) -> Lease:
        """Return the lease of a user's running server."""

        async def running() -> Lease | None:
            found = [lease for lease in await self.hub.farm.leases() if lease.owner == user and lease.server]
            return found[0] if found else None

        lease: Lease = await eventually(running, f"{user}'s server has a lease", timeout=60, interval=0.1)
        return lease

    async def log_in(self, user: str) -> aiohttp.ClientSession:
        """Return a browser in which a new user is logged in."""
        await self.hub.add_user(user)
        browser = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
        url = f"{self.hub.url}/hub/login"
        async with browser.get(url) as page:
            xsrf = browser.cookie_jar.filter_cookies(page.url)["_xsrf"].value
        form = {"username": user, "password": PASSWORD, "_xsrf": xsrf}
        async with browser.post(url, data=form, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
        return browser

    async def told(self, browser: aiohttp.ClientSession, path: str, sentence: str) -> bool:
        """Whether a page tells its user this."""
        async with browser.get(f"{self.hub.url}{path}", headers={"Accept": "text/html"}) as answer:
            return sentence in await answer.text()

    async def metric(self, path: str, name: str) -> str:
        """Return the lines of a metric."""
        async with self.hub.http.get(f"{self.hub.url}{path}", headers=self.hub.headers()) as answer:
            assert answer.status == 200, await answer.text()
            return "\n".join(line for line in (await answer.text()).splitlines() if line.startswith(name))

    async def route_gone(self, user: str) -> float:
        """Wait until a user's server has no route; return when that was."""

        async def gone() -> bool:
            path = f"{self.hub.url}/user/{user}/api"
            async with self.hub.http.get(path, headers=self.hub.headers(), allow_redirects=False) as answer:
                return answer.status == 302 or "jupyterhub" in answer.headers.get("X-JupyterHub-Version", "")

        await eventually(gone, f"{user}'s route is gone", timeout=30, interval=0.02)
        return time.time()


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """Run a Hub with two nodes; one that is not reached is down after two seconds."""
    root = share_path("jupyterhub_config.py")
    config = tmp_path / "jupyterhub_config.py"
    config.write_text(f"c.Inventory.down_after = 2\nexec(compile(open({str(root)!r}).read(), {str(root)!r}, 'exec'))\n")
    monkeypatch.setattr("hub_process.share_path", lambda _name: config)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(ssh_node(f"n{number}", f"127.0.0.1{number}", sys.executable))
            for number in (1, 2)
        ]
        hub = await stack.enter_async_context(hub_process([node.spec for node in nodes]))
        made = Site(hub, {node.spec.name: node for node in nodes})
        await made.nodes_ready(2)
        yield made


async def test_deaths_and_lost_nodes(site: Site) -> None:
    """Routes go within a second, users are told why, servers that asked for it run again, all of it once."""
    await _killed(site)
    await _node_lost(site)
    await _node_lost_while_the_hub_was_down(site)


async def _killed(site: Site) -> None:
    """A killed server: no route after a second, the signal on the next page and only there, one line, one count."""
    hub = site.hub
    browser = await site.log_in("ada")
    await hub.start_server("ada")
    lease = await site.lease_of("ada")
    assert lease.server is not None
    os.kill(lease.server.pid, signal.SIGKILL)
    killed_at = time.time()
    assert await site.route_gone("ada") - killed_at < 1
    said = "Your last server ended: the server was killed by signal 9"
    await eventually(lambda: site.told(browser, "/user/ada/", said), "the page of the dead server tells why", timeout=2)

    async def told_no_more() -> bool:
        return not await site.told(browser, "/hub/home", said)

    await eventually(told_no_more, "a later page does not tell it again", timeout=5)
    await browser.close()
    assert len(re.findall(f"lease={lease.id} end=signal", hub.log_text())) == 1
    exits = await site.metric("/services/agentfarm/metrics", "agentfarm_server_exits_total")
    assert f'{{node="{lease.node}",cause="signal"}} 1' in exits


async def _moved(site: Site, user: str, before: Lease) -> Lease:
    """Return the lease of a server that runs again elsewhere under the same name and with the same options."""

    async def elsewhere() -> Lease | None:
        found = await site.hub.farm.leases()
        return next((each for each in found if each.owner == user and each.server and each.id != before.id), None)

    lease: Lease = await eventually(elsewhere, f"{user}'s server runs again", timeout=60, interval=0.1)
    await site.hub.ready(user)
    assert lease.node != before.node
    assert lease.request.options == before.request.options
    return lease


async def _node_lost(site: Site) -> None:
    """A node that is down: no route a second later, the reason is told, the server runs elsewhere; then it heals."""
    hub = site.hub
    browser = await site.log_in("bob")
    await hub.start_server("bob", RESTART)
    old = await site.lease_of("bob")
    assert old.server is not None
    assert old.node is not None
    await site.nodes[old.node].stop()

    async def released() -> Lease | None:
        found = await hub.farm.lease(old.id)
        return None if found.alive else found

    given_up = await eventually(released, "the lease is given up", timeout=30, interval=0.02)
    assert given_up.end == "node_down"
    assert await site.route_gone("bob") - given_up.released_at < 1
    said = f"Your last server ended: node {old.node} is down ("
    await eventually(lambda: site.told(browser, "/hub/home", said), "the home page tells why", timeout=2)
    await browser.close()
    new = await _moved(site, "bob", old)
    assert new.released_at is None
    assert alive(old)
    assert 'outcome="started"} 1.0' in await site.metric("/hub/metrics", "agentfarm_server_restarts_total")
    await site.nodes[old.node].start()
    await eventually(lambda: not alive(old), "the old copy is ended on the healed node", timeout=20)
    await site.nodes_ready(2)
    assert [lease.id for lease in await hub.farm.leases() if lease.owner == "bob"] == [new.id]
    await hub.stop_server("bob")


async def _node_lost_while_the_hub_was_down(site: Site) -> None:
    """A Hub that comes back after its server's node was given up starts it again."""
    hub = site.hub
    await hub.add_user("cy")
    await hub.start_server("cy", RESTART)
    old = await site.lease_of("cy")
    assert old.node is not None
    await hub.kill()
    await site.nodes[old.node].stop()

    async def given_up() -> bool:
        return not (await hub.farm.lease(old.id)).alive

    await eventually(given_up, "the lease is given up", timeout=30, interval=0.1)
    await hub.start()
    await _moved(site, "cy", old)
    await site.nodes[old.node].start()
