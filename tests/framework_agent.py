"""An agent of OpenAI's Agents SDK that has the farm's tools; run by `framework.py` in the SDK's own environment."""

from __future__ import annotations

import asyncio
import os
import sys

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.mcp import MCPServerStreamableHttp
from openai import AsyncOpenAI


async def main(task: str) -> None:
    """Solve the task and print the answer."""
    set_tracing_disabled(True)
    headers = {"Authorization": f"Bearer {os.environ['AGENTFARM_TOKEN']}"}
    params = {"url": os.environ["AGENTFARM_MCP_URL"], "headers": headers, "timeout": 30, "sse_read_timeout": 120}
    async with MCPServerStreamableHttp(params=params, client_session_timeout_seconds=120, name="farm") as farm:
        client = AsyncOpenAI(base_url=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])
        model = OpenAIChatCompletionsModel(model=os.environ["OPENAI_MODEL"], openai_client=client)
        agent = Agent(name="analyst", instructions="Solve the task on the farm.", model=model, mcp_servers=[farm])
        result = await Runner.run(agent, task, max_turns=12)
        print(result.final_output)  # noqa: T201 - this is the program's answer


asyncio.run(main(sys.argv[1]))
