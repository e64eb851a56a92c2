"""Measure what an agent's `execute_code` through MCP costs beyond a message to its kernel, side by side.

``raw``
    The least there is: an execute request on a WebSocket to the kernel, through the proxy, until its reply and its
    output are there. No client library, no service.
``mcp``, ``mcp_before_2026``
    The tool `execute_code`, by the SDK's own client, in the newest protocol and in the one with sessions.
``mcp_bare``
    The same request as bare HTTP on a kept connection: what the service takes, without the SDK's client.
``list_tools``
    A request that reaches no kernel: proxy, authentication, the SDK's server.

All are on one Hub with a real node, whose server has one warm kernel for each way; the ways take turns, in another
order each round. Further: the first call of a caller whose kernel runs (`first_call_ms`), the first call of a kernel
that is not there (`new_kernel_ms`), and the rate of eight agents' kernels at once.

Run it with ``.venv/bin/python benchmark/mcp_calls.py`` (about two minutes; ``--quick`` for a try). It writes
``benchmark/results/mcp_calls-<date>.json``. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from provenance import output_path, provenance

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from mcp_client import Session, mcp_session  # noqa: E402
from tasks_hub import TasksHub, tasks_hub  # noqa: E402

from jupyterhub_agentfarm.agents.jupyter.kernel_messages import SUBPROTOCOL, decode, encode_request  # noqa: E402

PACKAGES = ("mcp", "aiohttp", "tornado", "jupyter_server", "ipykernel", "jupyterhub")
CODE = "1"
Samples = dict[str, list[float]]
Way = Callable[[], Awaitable[None]]


class RawKernel:
    """A kernel and a WebSocket to it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._session = socket, uuid.uuid4().hex

    async def execute(self) -> None:
        """Execute the code; return when reply and output are there."""
        content = {"code": CODE, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        identity, frame = encode_request("shell", "execute_request", content, self._session)
        await self._socket.send_bytes(frame)
        replied = idle = False
        while not (replied and idle):
            message = decode(await self._socket.receive_bytes())
            if message.parent == identity:
                replied |= message.kind == "execute_reply"
                idle |= message.kind == "status" and message.content["execution_state"] == "idle"


class Bare:
    """The endpoint as bare HTTP."""

    def __init__(self, http: aiohttp.ClientSession, url: str, token: str) -> None:
        self._http, self._url = http, url
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "execute_code",
        }

    async def execute(self) -> None:
        """Execute the code."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params = {"name": "execute_code", "arguments": {"code": CODE, "kernel": "bare"}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        async with self._http.post(self._url, json=body, headers=self._headers) as answer:
            text = await answer.text()
        if answer.status != 200 or '"status":"ok"' not in text.replace(" ", ""):
            raise RuntimeError(f"{answer.status}: {text[:500]}")


async def raw_kernel(stack: AsyncExitStack, site: TasksHub, http: aiohttp.ClientSession) -> RawKernel:
    """Start a kernel on the bot's server and connect to it."""
    base, headers = f"{site.hub.url}/user/bot/", site.hub.headers(site.tokens["bot"])
    async with http.post(f"{base}api/kernels", json={"name": "python3"}, headers=headers) as answer:
        kernel = (await answer.json())["id"]
    url = f"{base}api/kernels/{kernel}/channels"
    return RawKernel(await stack.enter_async_context(http.ws_connect(url, headers=headers, protocols=[SUBPROTOCOL])))


async def measure(site: TasksHub, options: argparse.Namespace) -> dict[str, Any]:
    """Measure on a Hub whose bot has a server."""
    samples: Samples = defaultdict(list)
    url, token = f"{site.hub.url}/services/agents/mcp", site.tokens["bot"]
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        newest: Session = await stack.enter_async_context(mcp_session(url, token))
        before: Session = await stack.enter_async_context(mcp_session(url, token, "legacy"))
        await newest.data("start_server", wait_seconds=120)
        ways: dict[str, Way] = {
            "raw": (await raw_kernel(stack, site, http)).execute,
            "mcp": lambda: _code(newest, "newest"),
            "mcp_before_2026": lambda: _code(before, "before"),
            "mcp_bare": Bare(http, url, token).execute,
            "list_tools": lambda: _list_tools(newest),
        }
        for way in ways.values():
            for _ in range(5):
                await way()
        for number in range(options.rounds):
            await _round(ways, number, options.calls, samples)
        await _first_calls(newest, site, samples, options.rounds)
        samples["calls_per_second_8_kernels"] = [await _rate(newest, options.calls) for _ in range(options.rounds)]
    return {name: _figures(values) for name, values in sorted(samples.items())}


async def _code(session: Session, kernel: str) -> None:
    await session.client.call_tool("execute_code", {"code": CODE, "kernel": kernel})


async def _list_tools(session: Session) -> None:
    await session.client.list_tools(cache_mode="bypass")


async def _round(ways: dict[str, Way], number: int, calls: int, samples: Samples) -> None:
    names = list(ways)
    shift = number % len(names)
    for name in names[shift:] + names[:shift]:
        took = []
        for _ in range(calls):
            began = time.perf_counter()
            await ways[name]()
            took.append((time.perf_counter() - began) * 1e3)
        samples[f"{name}_p50_ms"].append(statistics.median(took))
        samples[f"{name}_p95_ms"].append(statistics.quantiles(took, n=20)[-1])
    sys.stderr.write(f"round {number + 1} done\n")


async def _first_calls(session: Session, site: TasksHub, samples: Samples, rounds: int) -> None:
    """Note the first call to a kernel that is not there, and that of another token to one that is."""
    url = f"{site.hub.url}/services/agents/mcp"
    for number in range(rounds):
        began = time.perf_counter()
        await _code(session, f"fresh{number}")
        samples["new_kernel_ms"].append((time.perf_counter() - began) * 1e3)
        _, made = await site.hub.api("POST", "/users/bot/tokens", {"note": "bench"})
        async with mcp_session(url, made["token"]) as other:
            began = time.perf_counter()
            await _code(other, f"fresh{number}")
            samples["first_call_ms"].append((time.perf_counter() - began) * 1e3)
        await session.data("shutdown_kernel", kernel=f"fresh{number}")


async def _rate(session: Session, calls: int) -> float:
    """Return the calls per second over eight kernels at once."""
    kernels = [f"many{number}" for number in range(8)]
    await asyncio.gather(*(_code(session, kernel) for kernel in kernels))

    async def work(kernel: str) -> None:
        for _ in range(calls // 4):
            await _code(session, kernel)

    began = time.perf_counter()
    await asyncio.gather(*(work(kernel) for kernel in kernels))
    return len(kernels) * (calls // 4) / (time.perf_counter() - began)


def _figures(values: list[float]) -> dict[str, float]:
    rounded = [round(value, 3) for value in (statistics.median(values), min(values), max(values))]
    return {"median": rounded[0], "min": rounded[1], "max": rounded[2], "n": len(values)}


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Start a Hub, measure, stop."""
    with tempfile.TemporaryDirectory(prefix="mcpbench-") as workspace:
        async with tasks_hub(1, f"c.Spawner.notebook_dir = {workspace!r}\n", warm=True) as site:
            figures = await measure(site, options)
    raw, mcp = figures["raw_p50_ms"]["median"], figures["mcp_p50_ms"]["median"]
    ratios = {"mcp_to_raw": round(mcp / raw, 2), "mcp_minus_raw_ms": round(mcp - raw, 2)}
    return {"provenance": provenance(options, PACKAGES), "figures": figures, "compared": ratios}


def main() -> int:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description="Measure execute_code through MCP.")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all measurements")
    parser.add_argument("--calls", type=int, default=100, help="calls of each way in a round")
    parser.add_argument("--quick", action="store_true", help="one short round, to try the script")
    parser.add_argument("--output", type=Path, help="the file to write")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.calls = 1, 20
    result = asyncio.run(run(options))
    output = options.output or output_path("mcp_calls")
    output.write_text(json.dumps(result, indent=1) + "\n")
    shown = {key: result[key] for key in ("figures", "compared")}
    sys.stdout.write(json.dumps(shown, indent=1) + f"\nwritten: {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
