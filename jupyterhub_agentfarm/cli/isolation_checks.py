"""The doctor's checks of what keeps the servers of a node apart, and the words for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..terminal.quantities import UNKNOWN
from .findings import Finding, fail, ok, warn

#: The words for `Enforcement.limits`.
LIMITERS = {
    "systemd": "systemd",
    "cgroup2": "cgroup v2",
    "cgroup1": "cgroup v1",
    "prlimit": "each process by itself",
}
_AS_ROOT = "run noded there as root (`user` of the node, and User= of its systemd unit if it has one)"
_ROOT_OR_UNIT = f"{_AS_ROOT}, or as share/systemd/agentfarm-noded.service does"


def isolation_line(node: Mapping[str, Any]) -> str:
    """Return what is in force on a node: "limits: cgroup v1 · accounts: one per user · sandbox: bubblewrap"."""
    enforcement, chosen = _enforcement(node), _chosen(node)
    if enforcement is None:
        return UNKNOWN
    accounts = "one for all" if chosen.get("account") is None else "one per user"
    sandbox = chosen.get("sandbox", "none")
    return f"limits: {LIMITERS[enforcement['limits']]} · accounts: {accounts} · sandbox: {sandbox}"


def check_isolation(node: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the findings about a node, as `GET nodes/{name}` describes it; none for a noded that says nothing."""
    enforcement = _enforcement(node)
    if enforcement is not None:
        yield _limits(node, enforcement)
        yield _accounts(node, enforcement)
        yield from _sandbox(node, enforcement)


def _enforcement(node: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = (node["facts"] or {}).get("enforcement")
    return found


def _chosen(node: Mapping[str, Any]) -> Mapping[str, Any]:
    return node.get("isolation") or {}


def _called(node: Mapping[str, Any], what: str) -> str:
    return f"node {node['name']}: {what}"


def _limits(node: Mapping[str, Any], enforcement: Mapping[str, Any]) -> Finding:
    check, limits = _called(node, "limits"), enforcement["limits"]
    if limits != "prlimit":
        return ok(check, f"of memory, cores and processes, by {LIMITERS[limits]}")
    why = next((sentence for sentence in enforcement["missing"] if sentence.startswith("Limits")), "")
    mend = f"{_ROOT_OR_UNIT}; without that do not set Spawner.mem_limit where CUDA is used, nor Spawner.cpu_limit"
    return warn(check, why.rstrip(".") or "hold for single processes only", mend)


def _accounts(node: Mapping[str, Any], enforcement: Mapping[str, Any]) -> Finding:
    check, chosen = _called(node, "accounts"), _chosen(node)
    if chosen.get("account") is not None:
        if enforcement["switches_accounts"]:
            return ok(check, f"each server runs as {chosen['account']}")
        return fail(
            check, f"no server can start: each is to run as {chosen['account']}, and noded is not root", _AS_ROOT
        )
    sandbox = chosen.get("sandbox", "none")
    if enforcement["switches_accounts"]:
        mend = "set 'account': '{username}' in c.Inventory.isolation, or run noded as an ordinary account"
        if sandbox == "none":
            return fail(check, f"noded is root, and so is every server of {node['name']}: its users own the node", mend)
        return fail(check, f"no server can start: noded is root, and {sandbox} holds no server that is root", mend)
    if sandbox != "none":
        return ok(check, f"servers share one account and are kept apart by {sandbox}")
    return warn(
        check,
        f"servers of {node['name']} share one account: each can read the others' homes, environment and tokens",
        "set c.Inventory.isolation = {'account': '{username}'} and run noded as root, "
        "or {'sandbox': 'bubblewrap'}; it is fine where one person uses the node",
    )


def _sandbox(node: Mapping[str, Any], enforcement: Mapping[str, Any]) -> Iterator[Finding]:
    check, sandbox = _called(node, "sandbox"), _chosen(node).get("sandbox", "none")
    if sandbox == "none":
        if _has_gpus(node):
            yield _devices(node, enforcement)
        return
    if sandbox in enforcement["sandboxes"]:
        yield ok(check, sandbox)
        return
    why = next((sentence for sentence in enforcement["missing"] if sentence.startswith(f"No {sandbox}")), "")
    yield fail(
        check,
        f"no server can start: {sandbox} is chosen. {why}".strip().rstrip("."),
        f"mend that on the node and run `agentfarm nodes restart-noded {node['name']}`",
    )


def _devices(node: Mapping[str, Any], enforcement: Mapping[str, Any]) -> Finding:
    check = _called(node, "GPU devices")
    if enforcement["devices"]:
        return ok(check, "the kernel keeps servers from GPUs that they have not leased")
    return warn(
        check,
        "only CUDA_VISIBLE_DEVICES keeps servers from GPUs that they have not leased, and any program can change it",
        f"set the sandbox bubblewrap in c.Inventory.isolation, or {_AS_ROOT}",
    )


def _has_gpus(node: Mapping[str, Any]) -> bool:
    gpus = (node["telemetry"] or {}).get("gpus", ())
    return any(not gpu["simulated"] for gpu in gpus)
