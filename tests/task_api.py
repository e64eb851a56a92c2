"""The API of tasks, served with a few agents, and clients of whoever asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from agents_site import AgentsSite, agents_site, make_agent
from hub_double import HubDouble, hub_double

from jupyterhub_agentfarm.agents.access import SUBMIT
from jupyterhub_agentfarm.agents.client import AgentsClient
from jupyterhub_agentfarm.agents.models import AgentLimits, Attempt


def notebook(*sources: str, kernel: str = "python3", language: str = "python") -> dict[str, Any]:
    """Return a notebook of code cells."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources or ("1 + 1",)]
    metadata = {"kernelspec": {"name": kernel, "display_name": kernel, "language": language}}
    made: dict[str, Any] = json.loads(nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata)))
    return made


class Api:
    """The service, and clients of it by the name of whoever asks."""

    def __init__(self, site: AgentsSite, hub: HubDouble, stack: AsyncExitStack) -> None:
        self.site, self.hub, self._stack = site, hub, stack
        self._clients: dict[str, AgentsClient] = {}

    def client(self, name: str, *scopes: str, groups: tuple[str, ...] = ()) -> AgentsClient:
        """Return the client of a user, who holds these scopes beside that of submitting."""
        if name not in self._clients:
            token = self.hub.token(name, SUBMIT, *scopes, service="agents")
            self.hub.models[token]["groups"] = list(groups)
            made = AgentsClient(url=self.site.url, token=token, runtime_dir=self.site.runtime_dir)
            self._stack.push_async_callback(made.aclose)
            self._clients[name] = made
        return self._clients[name]

    async def submit(self, by: str = "bot", **request: Any) -> dict[str, Any]:
        """Submit a task."""
        return await self.client(by).submit({"notebook": notebook()} | request)

    async def claim(self, task: dict[str, Any]) -> Attempt:
        """Begin an attempt, as the dispatcher would."""
        return (await self.site.book.claim(task["id"]))[1]


AGENTS = (
    make_agent("bot", owner="ada", projects=("sales",), limits=AgentLimits(gpus=1)),
    make_agent("twin", owner="ada", labels={"zone": "b"}, kernels=("python3", "ir")),
    make_agent("friend", owner="bob", projects=("sales",)),
    make_agent("stranger", owner="eve"),
    make_agent("idle", owner="ada", state="suspended"),
)


@asynccontextmanager
async def task_api(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """Serve the API with a few agents."""
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(hub_double())
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        site = await stack.enter_async_context(agents_site(folder, AGENTS))
        yield Api(site, hub, stack)
