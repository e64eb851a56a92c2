"""The client of the Hub's API asks for what it was told to, whatever the names are."""

from __future__ import annotations

import pytest
from tornado import httpserver, netutil, web

from jupyterhub_agentfarm.errors import HubApiError
from jupyterhub_agentfarm.services.hub import HubClient


async def test_names_stay_one_part_of_the_path() -> None:
    """Slashes, questions and dots in them lead nowhere else."""
    asked: list[str] = []

    class Anything(web.RequestHandler):
        async def prepare(self) -> None:
            asked.append(self.request.uri or "")
            self.finish({"name": "x", "servers": {}})

    (socket,) = netutil.bind_sockets(0, "127.0.0.1")
    server = httpserver.HTTPServer(web.Application([(".*", Anything)]))
    server.add_socket(socket)
    hub = HubClient(f"http://127.0.0.1:{socket.getsockname()[1]}/hub/api", "none")
    try:
        await hub.user("ada/../../services?x#")
        await hub.stop_server("ada", "../../x")
        assert asked == [
            "/hub/api/users/ada%2F..%2F..%2Fservices%3Fx%23?include_stopped_servers",
            "/hub/api/users/ada/servers/..%2F..%2Fx",
        ]
        for name in ("", ".", ".."):
            with pytest.raises(HubApiError):
                await hub.user(name)
        assert len(asked) == 2
    finally:
        await hub.aclose()
        server.stop()
        await server.close_all_connections()
