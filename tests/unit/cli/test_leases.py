"""``agentfarm leases`` and ``agentfarm queue``."""

from __future__ import annotations

import json
from typing import Any

import pytest


def lease(start: str, **changes: Any) -> dict[str, Any]:
    """Return a lease as the controller answers it."""
    request = {"owner": "ada", "server_name": "", "options": {}, "cpus": 0, "memory_bytes": 0, "groups": []}
    plain = {
        "id": start.ljust(32, "0"), "owner": "ada", "server_name": "", "state": "running", "epoch": 1,
        "request": request, "created_at": 0.0, "node": "a", "gpus": ["GPU-1"], "granted_at": 60.0,
    }  # fmt: skip
    return plain | changes


WHY = {
    "decided_at": 0.0,
    "chosen": "a",
    "candidates": [
        {"node": "a", "score": 0.75, "scores": {"cpu": 0.5, "gpu": 1.0}},
        {"node": "b", "refusal": "gpus", "detail": "needs 1 GPU, 0 are free", "later": True},
    ],
}


@pytest.fixture
def leases(controller: Any) -> Any:
    """Give a farm with one running and one waiting lease."""
    waiting = {"state": "waiting", "node": None, "gpus": [], "position": 1, "detail": "no GPU is free"}
    controller.leases = [
        lease("abc1", why=WHY, detail="a scored 0.75"),
        lease("abd2", owner="bob", granted_at=None, **waiting),
    ]
    return controller


async def test_list(leases: Any, agentfarm: Any) -> None:
    """Each lease is a line; one that waits has its position and reason."""
    ended = await agentfarm("leases")
    assert ended.out == (
        "ID        OWNER  SERVER  STATE    NODE  GPUS   SINCE  DETAIL\n"
        "abc10000  ada    -       running  a     GPU-1  4m\n"
        "abd20000  bob    -       waiting  -     -      5m     position 1: no GPU is free\n"
    )
    assert (ended.status, ended.err) == (0, "")


async def test_why(leases: Any, agentfarm: Any) -> None:
    """The start of an id is enough to read how it was placed: scores and refusals of every node."""
    ended = await agentfarm("leases", "--why", "abc")
    assert ended.out == (
        "a scored 0.75 (cpu 0.50, gpu 1.00), best of 2 nodes that fit\n"
        "NODE  SCORE  CPU   GPU   REFUSED\n"
        "a     0.75   0.50  1.00\n"
        "b     -      -     -     gpus: needs 1 GPU, 0 are free\n"
    )


async def test_why_as_json(leases: Any, agentfarm: Any) -> None:
    """The explanation is there for programs too."""
    explained = json.loads((await agentfarm("leases", "--why", "abc", "--json")).out)
    assert (explained["node"], explained["why"]["chosen"], len(explained["why"]["candidates"])) == ("a", "a", 2)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("ab", "2 leases start with 'ab': give more of the id"),
        ("ff", "there is no lease 'ff': `agentfarm leases --all` lists them"),
    ],
)
async def test_why_of_none_or_many(leases: Any, agentfarm: Any, start: str, message: str) -> None:
    """An id that names no lease, or several, is refused."""
    ended = await agentfarm("leases", "--why", start)
    assert (ended.status, ended.out, ended.err) == (1, "", f"agentfarm: {message}\n")


async def test_nobody_holds_anything(controller: Any, agentfarm: Any) -> None:
    """No leases is no data, and --json is an empty list."""
    assert (await agentfarm("leases")).err == "Nobody holds anything.\n"
    assert json.loads((await agentfarm("leases", "--json")).out) == {"leases": []}


async def test_queue(controller: Any, agentfarm: Any) -> None:
    """The line is shown with what each one wants; strangers are somebody."""
    controller.queue = [
        {"position": 1, "owner": "ada", "server_name": "x", "options": {"gpus": 2, "gpu_model": "a100"},
         "created_at": 240.0, "detail": "1 GPU is free", "lease": "abc"},
        {"position": 2, "owner": None, "server_name": None,
         "options": {"gpus": 1, "labels": {"room": "b"}, "cpus": 1.5, "memory_bytes": 2**32, "kernel": "ir"},
         "created_at": 290.0, "detail": "", "lease": None},
    ]  # fmt: skip
    ended = await agentfarm("queue")
    assert ended.out == (
        "POSITION  ID   OWNER     SERVER  WANTS                                      SINCE  DETAIL\n"
        "1         abc  ada       x       2 GPUs, a100                               60s    1 GPU is free\n"
        "2         -    somebody  -       1 GPU, 1.5 cores, 4.0G, kernel ir, room=b  10s\n"
    )
    assert json.loads((await agentfarm("queue", "--json")).out) == {"queue": controller.queue}


async def test_cancel(leases: Any, agentfarm: Any) -> None:
    """A request leaves the line by the start of its id; what does not wait is left alone."""
    assert (await agentfarm("queue", "cancel", "abd")).out == (
        "The request of bob left the line: the request was withdrawn.\n"
    )
    assert [each["id"][:4] for each in leases.leases] == ["abc1"]
    refused = await agentfarm("queue", "cancel", "abc")
    assert (refused.status, refused.err) == (1, "agentfarm: lease abc10000 does not wait, it is running\n")
    missing = await agentfarm("queue", "cancel")
    assert (missing.status, missing.err) == (
        2,
        "agentfarm: LEASE is missing (see `agentfarm queue cancel --help`)\n",
    )
    assert "there is no command 'drop': use one of cancel" in (await agentfarm("queue", "drop")).err


async def test_cancel_as_json(leases: Any, agentfarm: Any) -> None:
    """What became of the request is there for programs too."""
    answer = json.loads((await agentfarm("queue", "cancel", "abd2", "--json")).out)
    assert (answer["lease"][:4], answer["state"]) == ("abd2", "released")


async def test_quota(controller: Any, agentfarm: Any) -> None:
    """Each owner's use stands beside the limit, where there is one."""
    hours = {"gpu_seconds": 40.2 * 3600, "max_gpu_seconds": 40 * 3600.0}
    controller.usage = {
        "window_seconds": 7 * 86400.0,
        "usage": [
            {"owner": "ada", "servers": 2, "max_servers": 3, "gpus": 1, "max_gpus": None, **hours},
            {"owner": "bob", "servers": 0, "max_servers": None, "gpus": 0, "max_gpus": 0, "gpu_seconds": 0.0,
             "max_gpu_seconds": None},
        ],
    }  # fmt: skip
    assert (await agentfarm("quota")).out == (
        "OWNER  SERVERS  GPUS    GPU-HOURS IN 7d\nada    2 of 3   1       40.2 of 40\nbob    0        0 of 0  0.0\n"
    )
    assert json.loads((await agentfarm("quota", "--json")).out) == controller.usage


async def test_quota_of_an_owner_who_is_limited_to_some(controller: Any, agentfarm: Any) -> None:
    """Labels and kernels that an owner is limited to have a column where anybody is."""
    use = {"servers": 0, "max_servers": 2, "gpus": 0, "max_gpus": None, "gpu_seconds": 0.0, "max_gpu_seconds": None}
    own = {"servers": 2, "gpus": None, "gpu_hours": None, "labels": {"room": "b"}, "kernels": ["ir", "python3"]}
    controller.usage = {
        "window_seconds": 7 * 86400.0,
        "usage": [{"owner": "ada", **use, "own_limits": None}, {"owner": "helper", **use, "own_limits": own}],
    }
    assert (await agentfarm("quota")).out == (
        "OWNER   SERVERS  GPUS  GPU-HOURS IN 7d  ONLY\n"
        "ada     0 of 2   0     0.0\n"
        "helper  0 of 2   0     0.0              room=b; kernels ir, python3\n"
    )


async def test_quota_of_groups(controller: Any, agentfarm: Any) -> None:
    """What members of a group use together is a list of its own."""
    use = {"servers": 2, "max_servers": None, "gpus": 8, "max_gpus": 8, "gpu_seconds": 7200.0, "max_gpu_seconds": None}
    controller.usage = {
        "window_seconds": 7 * 86400.0,
        "usage": [{"owner": "ada", **use, "max_gpus": None}],
        "pools": [{"group": "students", **use}],
    }
    assert (await agentfarm("quota")).out == (
        "OWNER  SERVERS  GPUS  GPU-HOURS IN 7d\nada    2        8     2.0\n\n"
        "GROUP     SERVERS  GPUS    GPU-HOURS IN 7d\nstudents  2        8 of 8  2.0\n"
    )
