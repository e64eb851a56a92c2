"""The doctor's checks of one node, made from what the controller knows about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import __version__
from ..protocol import PROTOCOL_VERSION
from ..terminal.quantities import age, duration, size
from .findings import Finding, fail, ok, warn
from .isolation_checks import check_isolation
from .warm_checks import check_warm_starts

MAX_CLOCK_SKEW_SECONDS = 2.0
MIN_DISK_BYTES = 2**30

#: What mends a node in quarantine, for each reason.
_REFUSED = {
    "host_key": "until it is clear why, trust nothing that answers there: compare its key's fingerprint on its console "
    "(`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`) with the one that is pinned or in SSHPool.known_hosts",
    "login_refused": "see sshd's log on the node (`journalctl -u ssh`): it says which key or certificate it refused",
}


def check_node(node: Mapping[str, Any], now: float) -> list[Finding]:
    """Return the findings about a node, as `GET nodes/{name}` describes it."""
    findings = [_reachable(node, now), _host_key(node)]
    if node["facts"] is not None:
        findings += [_version(node), _protocol(node), *check_isolation(node)]
    if node["state"] == "ready":
        findings += [_clock(node), *_telemetry(node)]
    return findings


def _called(node: Mapping[str, Any], what: str) -> str:
    return f"node {node['name']}: {what}"


def _reachable(node: Mapping[str, Any], now: float) -> Finding:
    check, spec = _called(node, "reachable"), node["spec"]
    if node["state"] != "ready":
        where = f"{spec['host']}:{spec['port']}"
        message = f"{node['state']} for {age(node['since_at'], now)}: {node['detail']}"
        mend = f"see that sshd answers at {where} and that {spec['python']} there has jupyterhub-agentfarm[noded]"
        return fail(check, message, _REFUSED.get(node.get("reason", ""), mend))
    if node["status"] != "ready":
        mend = f"when that is over, run `agentfarm nodes uncordon {node['name']}`"
        return warn(check, f"{node['status']}: it takes no new servers", mend)
    return ok(check, "ready")


def _host_key(node: Mapping[str, Any]) -> Finding:
    check = _called(node, "host key")
    if node["spec"]["host_key"]:
        return ok(check, "pinned")
    return warn(
        check,
        "not pinned with the node; SSHPool.known_hosts decides",
        "give the node a host_key in c.Inventory.nodes, as in its /etc/ssh/ssh_host_ed25519_key.pub",
    )


def _version(node: Mapping[str, Any]) -> Finding:
    check, theirs = _called(node, "version"), node["facts"]["version"]
    if theirs == __version__:
        return ok(check, f"noded {theirs} on Python {node['facts']['python']}")
    return warn(
        check,
        f"noded is {theirs}, the command here {__version__}",
        f"run `{node['spec']['python']} -m pip install jupyterhub-agentfarm[noded]=={__version__}` on the node "
        f"and `agentfarm nodes restart-noded {node['name']}` here; servers keep running",
    )


def _protocol(node: Mapping[str, Any]) -> Finding:
    check, theirs = _called(node, "protocol"), node["facts"]["protocol"]
    if theirs == PROTOCOL_VERSION:
        return ok(check, f"version {theirs}")
    return fail(
        check,
        f"noded speaks version {theirs} of the protocol, the controller {PROTOCOL_VERSION}",
        "install the same version of jupyterhub-agentfarm on both, then run "
        f"`agentfarm nodes restart-noded {node['name']}`",
    )


def _clock(node: Mapping[str, Any]) -> Finding:
    check, skew = _called(node, "clock"), node["clock_skew_seconds"]
    if skew is None:
        return warn(check, "the node has not reported its time yet", "run the doctor again in a few seconds")
    if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
        direction = "behind" if skew > 0 else "ahead of"
        return fail(
            check,
            f"{duration(abs(skew))} {direction} the controller's clock",
            "run a time service on both, such as chrony or systemd-timesyncd",
        )
    return ok(check, f"within {abs(skew):.1f} s")


def _telemetry(node: Mapping[str, Any]) -> Iterator[Finding]:
    telemetry = node["telemetry"]
    if telemetry is None:
        yield warn(_called(node, "telemetry"), "none yet", "run the doctor again in a few seconds")
        return
    yield _disk(node, telemetry)
    yield _gpus(node, telemetry)
    yield from check_warm_starts(node)


def _disk(node: Mapping[str, Any], telemetry: Mapping[str, Any]) -> Finding:
    check = _called(node, "disk")
    full = [disk for disk in telemetry["filesystems"] if disk["avail_bytes"] < MIN_DISK_BYTES <= disk["size_bytes"]]
    if not full:
        return ok(check, f"at least {size(MIN_DISK_BYTES)} free everywhere")
    each = ", ".join(f"{disk['mountpoint']} has {size(disk['avail_bytes'])} free" for disk in full)
    return fail(check, each, "remove what is not needed: servers cannot save notebooks on a full disk")


def _gpus(node: Mapping[str, Any], telemetry: Mapping[str, Any]) -> Finding:
    check, health = _called(node, "gpus"), telemetry["gpu_health"]
    if health in {"hanging", "failed"}:
        return fail(
            check,
            f"NVML is {health}: {telemetry['gpu_error']}",
            "run nvidia-smi on the node; a driver that hangs usually needs the node restarted",
        )
    foreign = [str(pid) for gpu in telemetry["gpus"] for pid in gpu["foreign_pids"]]
    if foreign:
        return warn(
            check,
            f"processes {', '.join(foreign)} use a GPU past the farm",
            "end them, or let their owners start servers instead: such a GPU is not leased",
        )
    simulated = " (simulated)" if any(gpu["simulated"] for gpu in telemetry["gpus"]) else ""
    return ok(check, f"{len(telemetry['gpus'])} GPUs{simulated}")
