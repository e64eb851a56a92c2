"""What the services may do to the Hub, and what agents may: the least that each needs."""

from __future__ import annotations

from typing import Any

CONTROLLER = "agentfarm"
BENCHMARK = "benchmark"
AGENTS = "agents"
SUBMIT = "custom:agents:tasks:submit"


def benchmark_role(name: str) -> dict[str, Any]:
    """Return what the benchmark service may do to the Hub: use the servers of one user, and keep nodes for them."""
    user = f"!user={name}"
    return {
        "name": "agentfarm-benchmark",
        "description": "Start and use the benchmark user's servers",
        "scopes": [
            f"read:users{user}",
            f"servers{user}",
            f"access:servers{user}",
            f"access:services!service={CONTROLLER}",
            "custom:agentfarm:nodes:read",
            "custom:agentfarm:nodes:keep",
            "custom:agentfarm:leases:read",
        ],
        "services": [BENCHMARK],
    }


def agent_roles(projects: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return what agents may have their tokens do, and what the agents service may do to the Hub.

    A role on a group makes the group. The service may touch members of the group `agents` alone, but for making and
    deleting users, for which JupyterHub has no narrower scope than `admin:users`.
    """
    farm = [f"access:services!service={CONTROLLER}", "custom:agentfarm:nodes:read"]
    of_agents = ("groups", "tokens", "servers", "shares")
    return [
        {
            "name": "agentfarm-agent",
            "description": "What an agent may do beside what every user may",
            "scopes": [f"access:services!service={AGENTS}", *farm, SUBMIT],
            "groups": [AGENTS],
        },
        {
            "name": "agentfarm-agents",
            "description": "Make agents and look after them",
            "scopes": [
                "admin:users",
                *(f"{scope}!group={AGENTS}" for scope in of_agents),
                *(f"groups!group={project}" for project in projects),
                *farm,
                "custom:agentfarm:leases:read",
                "custom:agentfarm:limits:manage",
            ],
            "services": [AGENTS],
        },
    ]
