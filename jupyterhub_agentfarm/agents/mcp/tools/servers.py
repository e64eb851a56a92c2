"""Tools that tell who one is and how the farm is, and that start and stop servers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from ....errors import AgentFarmError, InvalidField, ServerDied
from ...dispatch.servers import TASK_SERVER
from .answers import ServiceRefused, Tools, answer, tool
from .caller import Caller, Ctx, ToolDesk, caller_of, check_server_name
from .resources import GIB, Resources

#: Nodes that farm_status tells of one by one.
MAX_NODES = 50
MAX_WAIT_SECONDS = 600.0
_POLL_SECONDS = 0.25
_TOLD_SECONDS = 5.0

ServerName = Annotated[
    str,
    Field(description="Name of one of your servers; leave it empty for your default server.", max_length=100),
]
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


class ServerTools(Tools):
    """Tools that tell how things are, and that start and stop servers."""

    @tool(30, _READS)
    async def whoami(self, ctx: Ctx) -> CallToolResult:
        """Tell who you are on this farm: your user name, your limits and what you may do.

        Call this first when you do not know what you may use.
        """
        return answer(await _whoami(self.desk, caller_of(ctx)))

    @tool(30, _READS)
    async def farm_status(self, ctx: Ctx) -> CallToolResult:
        """Tell what the farm has: nodes, free CPUs, memory and GPUs, kernels (languages), and who waits in line.

        Use it to choose what to ask start_server or submit_task for. You need not choose a node: the farm does.
        """
        farm = self.desk.farm(caller_of(ctx))
        nodes, queue = await asyncio.gather(farm.nodes(), farm.queue())
        return answer(_status(nodes, queue))

    @tool(30, _READS)
    async def list_servers(self, ctx: Ctx) -> CallToolResult:
        """List your servers: which run, on which node, with how many GPUs, and since when."""
        caller = caller_of(ctx)
        models, leases = await asyncio.gather(self.desk.servers(caller), _leases(self.desk, caller))
        return answer({"servers": [_server_view(name, model, leases) for name, model in sorted(models.items())]})

    @tool(MAX_WAIT_SECONDS + 30, ToolAnnotations(destructive_hint=False, idempotent_hint=True, open_world_hint=False))
    async def start_server(
        self,
        ctx: Ctx,
        server: ServerName = "",
        resources: Resources | None = None,
        wait_seconds: Annotated[float, Field(description="How long to wait for it.", ge=0, le=MAX_WAIT_SECONDS)] = 120,
    ) -> CallToolResult:
        """Start a server, which is a computer on the farm with your files, and wait until it can be used.

        A server that runs already is left as it is. When the farm is full the server waits in line, and this tells
        the place; call it again to wait on. Stop servers that you do not need: they count against your limits.
        """
        options = resources.options() if resources else {}
        if TASK_SERVER.fullmatch(check_server_name(server)):
            raise InvalidField("server", "another name: servers of such names are those of your tasks", server)
        return await _start(ctx, self.desk, server, options, wait_seconds)

    @tool(120, ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False))
    async def stop_server(self, ctx: Ctx, server: ServerName = "") -> CallToolResult:
        """Stop one of your servers: its kernels end with all their variables, files in the workspace stay."""
        caller, hub = caller_of(ctx), self.desk.hub(caller_of(ctx))
        check_server_name(server)
        deadline = time.monotonic() + 90
        asked = False
        while (model := await hub.server(caller.name, server)) is not None and _lives(model):
            if not asked or model.get("pending") is None:
                await hub.stop_server(caller.name, server)
                asked = True
            if time.monotonic() > deadline:
                raise ServerDied(f"the server {server!r} is told to stop, and has not ended yet: look at list_servers")
            await asyncio.sleep(_POLL_SECONDS)
        return answer({"server": server, "state": "stopped", "was_running": asked})


async def _whoami(desk: ToolDesk, caller: Caller) -> dict[str, Any]:
    data: dict[str, Any] = {"name": caller.name, "kind": caller.principal.kind, "groups": list(caller.principal.groups)}
    with contextlib.suppress(ServiceRefused):  # people are no agents
        data["agent"] = await desk.service(caller, "GET", f"agents/{caller.name}")
    data["may"] = sorted(caller.principal.scopes)
    return data


async def _leases(desk: ToolDesk, caller: Caller) -> dict[str, Any]:
    """Return the caller's leases by server; where the controller does not tell, there is less to say."""
    try:
        leases = await desk.farm(caller).leases()
    except AgentFarmError:
        return {}
    return {lease.server_name: lease for lease in leases if lease.owner == caller.name}


def _lives(model: dict[str, Any]) -> bool:
    return bool(model.get("ready") or model.get("pending"))


def _state(model: dict[str, Any]) -> Literal["running", "starting", "stopping", "stopped"]:
    pending = model.get("pending")
    if pending:
        return "stopping" if pending == "stop" else "starting"
    return "running" if model.get("ready") else "stopped"


def _server_view(name: str, model: dict[str, Any], leases: dict[str, Any]) -> dict[str, Any]:
    view: dict[str, Any] = {"server": name, "state": _state(model), "url": model.get("url")}
    lease = leases.get(name)
    if _lives(model):
        view |= {"started": model.get("started"), "last_activity": model.get("last_activity")}
        view["options"] = model.get("user_options") or {}
    if lease is not None:
        view |= {"node": lease.node, "gpus": len(lease.gpus), "place_in_line": lease.position, "detail": lease.detail}
    return view


async def _start(ctx: Ctx, desk: ToolDesk, name: str, options: dict[str, Any], wait_seconds: float) -> CallToolResult:
    caller, hub = caller_of(ctx), desk.hub(caller_of(ctx))
    model = await hub.server(caller.name, name)
    note = ""
    if not (was_running := model is not None and _lives(model)):
        await hub.start_server(caller.name, name, options)
    elif options and options != ((model or {}).get("user_options") or {}):
        note = "it was started before, with other options: stop it first where you need these"
    began, told = time.monotonic(), 0.0
    while True:
        model = await hub.server(caller.name, name)
        if model is None or not _lives(model):
            raise ServerDied(await hub.start_failure(caller.name, name) or f"the server {name!r} could not be started")
        waited = time.monotonic() - began
        if (ready := model.get("ready") and not model.get("pending")) or waited > wait_seconds:
            break
        if waited - told >= _TOLD_SECONDS:
            told = waited
            await ctx.report_progress(round(waited, 1), wait_seconds, await _waits_for(desk, caller, name))
        await asyncio.sleep(_POLL_SECONDS)
    view = _server_view(name, model, await _leases(desk, caller)) | {"was_running": was_running}
    if not ready:
        note = f"it was not ready within {wait_seconds:g} s: call start_server again to wait on, or stop_server"
    return answer(view | ({"note": note} if note else {}))


async def _waits_for(desk: ToolDesk, caller: Caller, name: str) -> str:
    lease = (await _leases(desk, caller)).get(name)
    if lease is None:
        return "the server starts"
    if lease.position is not None:
        return f"place {lease.position} in line: {lease.detail}"
    return f"the server starts on {lease.node}"


def _status(nodes: list[dict[str, Any]], queue: list[dict[str, Any]]) -> dict[str, Any]:
    eligible = [node for node in nodes if node["eligible"]]
    shown = sorted(nodes, key=lambda node: (not node["eligible"], node["name"]))[:MAX_NODES]
    gpus = [gpu for node in eligible for gpu in _gpus(node)]
    return {
        "nodes_eligible": len(eligible),
        "nodes": len(nodes),
        "gpus": len(gpus),
        "gpus_free": sum(not gpu["leased"] for gpu in gpus),
        "waiting_in_line": len(queue),
        "each_node": [_node_view(node) for node in shown],
        "nodes_left_out": len(nodes) - len(shown),
    }


def _gpus(node: dict[str, Any]) -> list[dict[str, Any]]:
    return list((node.get("telemetry") or {}).get("gpus") or ())


def _node_view(node: dict[str, Any]) -> dict[str, Any]:
    view: dict[str, Any] = {"node": node["name"], "status": node["status"], "eligible": node["eligible"]}
    if telemetry := node.get("telemetry"):
        busy = telemetry["cpu_utilization_ratio"] or 0.0
        view["cpus"] = telemetry["cpus"]
        view["cpus_idle"] = round(telemetry["cpus"] * (1 - busy), 1)
        view["memory_gib"] = round(telemetry["memory_total_bytes"] / GIB, 1)
        view["memory_free_gib"] = round(telemetry["memory_available_bytes"] / GIB, 1)
    view["gpus"] = [_gpu_view(gpu) for gpu in _gpus(node)]
    view["labels"] = node["spec"]["labels"]
    if kernels := node.get("kernels"):
        view["kernels"] = _kernel_names(kernels)
    return view


def _gpu_view(gpu: dict[str, Any]) -> dict[str, Any]:
    memory = gpu.get("memory_total_bytes")
    return {
        "name": gpu["name"],
        "memory_gib": None if memory is None else round(memory / GIB, 1),
        "free": not gpu["leased"],
        **({"simulated": True} if gpu.get("simulated") else {}),
    }


def _kernel_names(kernels: Iterable[Any]) -> list[str]:
    return [str(kernel["name"]) if isinstance(kernel, dict) else str(kernel) for kernel in kernels]
