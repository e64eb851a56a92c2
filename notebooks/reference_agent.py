"""A reference agent: a language model that works on the farm, one step after the other, within limits.

::

    plan ──▶ the model calls a tool of the farm ──▶ it is executed ──▶ the model reads what came back ──┐
                     ▲                                                                                 │
                     └───────────────────────────── next step ◀────────────────────────────────────────┘
    until it answers without a call, or a limit is reached: steps, seconds, tokens, money

Any endpoint that speaks OpenAI's chat completions will do. It is named by environment variables, like the farm:

    OPENAI_BASE_URL     as in https://api.openai.com/v1 or http://127.0.0.1:11434/v1
    OPENAI_MODEL        name of the model; it must be one that calls tools
    OPENAI_API_KEY      key of the endpoint, if it wants one
    OPENAI_PRICE_INPUT, OPENAI_PRICE_OUTPUT    price of a million tokens, to limit what is spent
    AGENTFARM_MCP_URL   as in https://hub.example.org/services/agents/mcp
    AGENTFARM_TOKEN     the agent's Hub token

    python reference_agent.py --max-steps 20 "Which of the columns in data.csv predicts the price best?"

It needs `pip install mcp`, and nothing else. What the agent does is printed; the answer comes last. The exit status is
0 for an answer, 1 when a limit ended the work, 2 for what cannot work: a missing variable, a refused key or token.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

try:
    import httpx2
    from mcp import Client, MCPError
    from mcp.client.streamable_http import streamable_http_client
    from mcp_types import CallToolResult, ImageContent, TextContent, Tool
except ImportError as exc:
    raise SystemExit(f"the reference agent needs the MCP SDK: pip install 'mcp>=2' ({exc})") from exc

SYSTEM = """\
You solve a task on a farm of computers by calling tools. Work in small steps: after each call read what came back, and
decide what is next. An error tells what to correct: do not repeat a call that failed unchanged. Print little: figures
and heads of tables, not whole files. When you know the answer, give it in plain words, without a call."""
PLAN = "First write a plan of at most six short steps, and nothing else. Do not solve the task yet."
GO_ON = "Carry the plan out, one step at a time. Change it where what you see asks for that."
#: Characters of a tool's answer that the model is given.
MAX_RESULT = 20_000
#: Tries of a request that the endpoint was too busy for, and the pause before the next, in seconds.
TRIES, PAUSE_SECONDS = 4, 1.0


class AgentError(Exception):
    """What cannot work, in one sentence."""


class LimitReached(Exception):
    """A limit ended the work, in one sentence."""


@dataclass(frozen=True)
class Settings:
    """Where model and farm are."""

    base_url: str
    model: str
    mcp_url: str
    token: str = field(repr=False)
    api_key: str = field(default="", repr=False)
    #: Price of a million tokens that the model reads and writes.
    price_input: float = 0.0
    price_output: float = 0.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Return what the environment says; a variable that is missing is named."""
        wanted = ("OPENAI_BASE_URL", "OPENAI_MODEL", "AGENTFARM_MCP_URL", "AGENTFARM_TOKEN")
        missing = [name for name in wanted if not environment.get(name)]
        if missing:
            raise AgentError(f"set {' and '.join(missing)} in the environment; see the beginning of reference_agent.py")
        prices = {}
        for name in ("OPENAI_PRICE_INPUT", "OPENAI_PRICE_OUTPUT"):
            try:
                prices[name[7:].lower()] = float(environment.get(name) or 0)
            except ValueError:
                raise AgentError(f"{name} must be the price of a million tokens, not {environment[name]!r}") from None
        base_url, model, mcp_url, token = (environment[name] for name in wanted)
        return cls(base_url.rstrip("/"), model, mcp_url, token, environment.get("OPENAI_API_KEY", ""), **prices)


@dataclass(frozen=True)
class Limits:
    """What the agent may use; whichever is reached first ends the work."""

    #: Calls of the model, the plan included.
    steps: int = 25
    seconds: float = 1800.0
    #: Tokens that the model reads and writes, all calls together.
    tokens: int = 400_000
    #: In the currency of the prices; counts only where these are given.
    cost: float = 2.0


@dataclass
class Spent:
    """What has been used so far."""

    steps: int = 0
    tokens_input: int = 0
    tokens_output: int = 0
    cost: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def add(self, usage: Mapping[str, Any], settings: Settings) -> None:
        """Add one call of the model."""
        read, written = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        self.tokens_input += read
        self.tokens_output += written
        self.cost += (read * settings.price_input + written * settings.price_output) / 1e6

    def check(self, limits: Limits) -> None:
        """End the work where a limit is reached."""
        if self.steps >= limits.steps:
            raise LimitReached(f"{limits.steps} steps were made without an answer")
        if self.seconds >= limits.seconds:
            raise LimitReached(f"the {limits.seconds:g} seconds are over")
        if self.tokens_input + self.tokens_output >= limits.tokens:
            raise LimitReached(f"the {limits.tokens} tokens are used")
        if self.cost >= limits.cost:
            raise LimitReached(f"the money is spent: {self.cost:.4f} of {limits.cost:g}")

    def __str__(self) -> str:
        """Say it to people."""
        tokens = f"{self.tokens_input} tokens read, {self.tokens_output} written"
        return f"{self.steps} steps, {self.seconds:.1f} s, {tokens}, cost {self.cost:.4f}"


@dataclass(frozen=True)
class Outcome:
    """How it ended."""

    answer: str
    plan: str
    spent: Spent
    #: Which limit ended it; "" when there is an answer.
    stopped: str = ""


class Model:
    """An endpoint that speaks OpenAI's chat completions."""

    def __init__(self, settings: Settings, limits: Limits, spent: Spent) -> None:
        self._settings, self._limits, self._spent = settings, limits, spent
        headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        self._http = httpx2.AsyncClient(headers=headers, timeout=300)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the model's next message, within the limits."""
        self._spent.check(self._limits)
        self._spent.steps += 1
        body: dict[str, Any] = {"model": self._settings.model, "messages": list(messages)}
        if tools:
            body["tools"] = list(tools)
        answer = await self._post(body)
        try:
            message: dict[str, Any] = answer["choices"][0]["message"]
        except (KeyError, IndexError, TypeError):
            raise AgentError(f"the model's endpoint answered with no completion: {answer}"[:300]) from None
        self._spent.add(answer.get("usage") or _estimate(body, message), self._settings)
        return message

    async def _post(self, body: Mapping[str, Any]) -> Any:
        url = f"{self._settings.base_url}/chat/completions"
        for attempt in range(1, TRIES + 1):
            try:
                response = await self._http.post(url, json=body)
            except httpx2.HTTPError as exc:
                raise AgentError(f"the model's endpoint does not answer at {url}: {type(exc).__name__}") from exc
            if response.status_code not in (429, 500, 502, 503) or attempt == TRIES:
                break
            await asyncio.sleep(PAUSE_SECONDS * 2**attempt)
        if response.status_code in (401, 403):
            raise AgentError("the model's endpoint refuses the key in OPENAI_API_KEY")
        if response.status_code != 200:
            raise AgentError(f"the model's endpoint answered {response.status_code}: {response.text[:300]}")
        return response.json()


def _estimate(body: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, int]:
    """Return about how many tokens a call took, for endpoints that do not tell: four characters each."""
    return {"prompt_tokens": len(json.dumps(body)) // 4, "completion_tokens": len(json.dumps(message)) // 4}


def described(tool: Tool) -> dict[str, Any]:
    """Return a tool of the farm as the model is told of it."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def shown(result: CallToolResult) -> str:
    """Return a tool's answer as the model reads it."""
    parts = [block.text for block in result.content if isinstance(block, TextContent)]
    images = sum(isinstance(block, ImageContent) for block in result.content)
    if images:
        parts.append(f"[{images} image(s) were made; save what you need of them to files]")
    text = ("failed: " if result.is_error else "") + "\n".join(parts)
    return text if len(text) <= MAX_RESULT else text[: MAX_RESULT // 2] + "\n[...]\n" + text[-MAX_RESULT // 2 :]


class Agent:
    """One piece of work."""

    def __init__(self, model: Model, farm: Client, say: Callable[[str], None]) -> None:
        self._model, self._farm, self._say = model, farm, say
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
        #: Servers that were started here, and are to be stopped in the end.
        self.started: set[str] = set()
        self.plan = ""

    async def solve(self, task: str) -> str:
        """Return the answer to the task."""
        tools = [described(tool) for tool in (await self._farm.list_tools()).tools]
        names = ", ".join(tool["function"]["name"] for tool in tools)
        self._messages.append({"role": "user", "content": f"{task}\n\nThe farm's tools are: {names}.\n\n{PLAN}"})
        self.plan = str((await self._next([])).get("content") or "")
        self._say(f"plan:\n{self.plan}")
        self._messages.append({"role": "user", "content": GO_ON})
        while calls := (message := await self._next(tools)).get("tool_calls"):
            for call in calls:
                await self._call(call)
        return str(message.get("content") or "")

    async def _next(self, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        message = await self._model.ask(self._messages, tools)
        given = {key: value for key, value in message.items() if value is not None}
        self._messages.append({"role": "assistant"} | given)
        return message

    async def _call(self, call: Mapping[str, Any]) -> None:
        """Carry out one call, and let the model see what came back."""
        name, text = call["function"]["name"], call["function"].get("arguments") or "{}"
        self._say(f"{name} {text}")
        try:
            arguments = json.loads(text)
            result = await self._farm.call_tool(name, arguments)
        except ValueError as exc:
            seen = f"failed: the arguments are no JSON: {exc}"
        except MCPError as exc:
            seen = f"failed: {exc}"
        else:
            seen = shown(result)
            self._remember(name, arguments, result)
        self._say("  " + seen[:2000].replace("\n", "\n  "))
        self._messages.append({"role": "tool", "tool_call_id": call["id"], "content": seen})

    def _remember(self, name: str, arguments: Mapping[str, Any], result: CallToolResult) -> None:
        server = str(arguments.get("server", ""))
        if name == "start_server" and not result.is_error and not (result.structured_content or {}).get("was_running"):
            self.started.add(server)
        elif name == "stop_server":
            self.started.discard(server)

    async def clean_up(self) -> None:
        """Stop the servers that were started here."""
        for server in sorted(self.started):
            await self._farm.call_tool("stop_server", {"server": server})
            self._say(f"stopped the server {server!r}")


async def run(
    task: str, settings: Settings, limits: Limits = Limits(), say: Callable[[str], None] = print, keep: bool = False
) -> Outcome:
    """Solve a task on the farm.

    Parameters
    ----------
    say
        Is told what happens.
    keep
        Leave the servers running that the agent has started.
    """
    spent = Spent()
    model = Model(settings, limits, spent)
    headers = {"Authorization": f"Bearer {settings.token}"}
    http = httpx2.AsyncClient(headers=headers, timeout=httpx2.Timeout(30, read=900))
    try:
        async with http:
            await _check_token(http, settings)
            async with Client(streamable_http_client(settings.mcp_url, http_client=http)) as farm:
                ended = await _within(Agent(model, farm, say), task, limits, spent, keep)
    finally:
        await model.aclose()
    if isinstance(ended, AgentError):  # raised only here: the SDK would make a group of it
        raise ended
    return ended


async def _check_token(http: httpx2.AsyncClient, settings: Settings) -> None:
    """Say clearly what the SDK would say in the middle of a protocol."""
    try:
        response = await http.get(settings.mcp_url, headers={"Accept": "text/plain"})
    except httpx2.HTTPError as exc:
        raise AgentError(f"the farm does not answer at {settings.mcp_url}: {type(exc).__name__}") from exc
    if response.status_code in (401, 403):
        raise AgentError(f"the farm refuses AGENTFARM_TOKEN: {response.text[:200]}")
    if response.status_code == 404:
        raise AgentError(f"there is no MCP endpoint at {settings.mcp_url}: it is HUB/services/agents/mcp")


async def _within(agent: Agent, task: str, limits: Limits, spent: Spent, keep: bool) -> Outcome | AgentError:
    """Work until there is an answer, a limit is reached or it cannot work; then tidy up."""
    answer = stopped = ""
    try:
        async with asyncio.timeout(limits.seconds):
            answer = await agent.solve(task)
    except TimeoutError:
        stopped = f"the {limits.seconds:g} seconds are over"
    except LimitReached as exc:
        stopped = str(exc)
    except AgentError as exc:
        return exc
    finally:
        if not keep:
            await agent.clean_up()
    return Outcome(answer, agent.plan, spent, stopped)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Solve a task on the farm with a language model.")
    parser.add_argument("task")
    parser.add_argument("--max-steps", type=int, default=Limits.steps)
    parser.add_argument("--max-seconds", type=float, default=Limits.seconds)
    parser.add_argument("--max-tokens", type=int, default=Limits.tokens)
    parser.add_argument("--max-cost", type=float, default=Limits.cost)
    parser.add_argument("--keep", action="store_true", help="leave the servers running")
    options = parser.parse_args(argv)
    limits = Limits(options.max_steps, options.max_seconds, options.max_tokens, options.max_cost)
    try:
        outcome = asyncio.run(run(options.task, Settings.from_environment(), limits, keep=options.keep))
    except AgentError as exc:
        print(f"reference agent: {exc}", file=sys.stderr)
        return 2
    print(f"\n{outcome.spent}")
    if outcome.stopped:
        print(f"reference agent: {outcome.stopped}", file=sys.stderr)
        return 1
    print(f"\n{outcome.answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
