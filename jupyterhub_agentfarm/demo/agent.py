"""The demo's agent: registered like any other, with its token in a file."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ..agents.client import AgentsClient
from ..agents.models import AgentLimits, AgentRequest
from ..errors import FarmUnavailable
from ..services.local import write_private
from ..terminal.progress import Bars

#: Its name, which is that of its Hub user.
AGENT = "scout"
_SERVICE_SECONDS = 60
_POLL_SECONDS = 0.2


async def register_agent(runtime_dir: Path, token_file: Path, bars: Bars) -> None:
    """Register the demo's agent and write its token (0600).

    Raises
    ------
    AgentFarmError
        The agents service does not answer, or refuses.
    """
    request = AgentRequest(AGENT, "Tries things out in the demo", owner="admin", limits=AgentLimits(servers=4, gpus=2))
    deadline = time.monotonic() + _SERVICE_SECONDS
    client = AgentsClient(runtime_dir=str(runtime_dir))
    try:
        while True:
            try:
                made = await client.register(request)
                break
            except FarmUnavailable:  # the service may need a moment longer than the nodes
                if time.monotonic() > deadline:
                    raise
            bars.show("agent", 0, 1, "waiting for the agents service")
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await client.aclose()
    write_private(token_file, made["token"]["token"] + "\n")
    bars.show("agent", 1, 1, f"{AGENT} is registered")
