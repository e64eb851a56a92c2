"""Nobody can tell whether a server was started warm: the gate through which each release of Jupyter has to go.

What is compared is what a cold and a warm server of one noded show in /proc and over HTTP, and what their own process
is like inside, with what names user, port and process replaced. What differs all the same is in the tests, with why.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect
from waiting import eventually
from warm_farm import Served, WarmFarm

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

#: What a browser and programs ask for.
GET = (
    *("api", "api/status", "api/me", "api/kernels", "api/kernelspecs", "api/sessions", "api/terminals", "api/contents"),
    *("api/contents/a.txt", "api/config/notebook", "api/nbconvert", "api/spec.yaml", "lab", "tree", "lab/api/settings"),
    *("lab/api/settings/@jupyterlab/apputils-extension:themes", "lab/api/workspaces", "lab/api/translations"),
    *("lab/api/listings/@jupyterlab/extensionmanager-extension/listings.json", "lsp/status", "static/favicon.ico"),
    *("files/a.txt", "agentfarm/api/v1/runs", "agentfarm/api/v1/notice", "no/such/page", "login", "metrics"),
    *("lab/extensions/no-such", "kernelspecs/python3/logo-64x64.png", "api/security/csp-report", "logout"),
)
#: Names of a process's status that are equal.
STATUS = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd")
STATUS += ("CapAmb", "NoNewPrivs", "Seccomp", "Name", "Cpus_allowed_list", "CoreDumping", "Kthread")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warm(farm: WarmFarm) -> Served:
    """A server that was started warm."""
    served = await farm.start("quokka-warm")
    assert served.warm, farm.noded.log[-3000:]
    return served


def plain(text: str, served: Served) -> str:
    """Return a text without what is one server's own."""
    text = text.replace(str(served.home), "HOME").replace(served.lease, "LEASE")
    text = text.replace(served.user, "USER")
    text = text.replace(str(served.status["port"]), "PORT").replace(str(served.pid), "PID")
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "TIME", text)
    return re.sub(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}|[0-9a-f]{32,}", "ID", text)


# ---- the process, from outside --------------------------------------------------------------------------------------


def process(served: Served) -> dict[str, Any]:
    """Return what /proc shows of a server."""
    fields = served.proc("stat").rpartition(b")")[2].split()
    status = dict(line.split(":\t", 1) for line in served.proc("status").decode().splitlines() if ":\t" in line)
    return {
        "arguments": plain(served.proc("cmdline").decode(), served),
        "cwd": plain(str(Path(f"/proc/{served.pid}/cwd").readlink()), served),
        "exe": str(Path(f"/proc/{served.pid}/exe").readlink()),
        "parent, own group, own session": [int(fields[1]), *(int(field) == served.pid for field in fields[2:4])],
        "nice and policy": [fields[16], fields[38], served.proc("oom_score_adj")],
        "limits": served.proc("limits"),
        "cgroup": plain(served.proc("cgroup").decode(), served),
        "status": {name: status[name] for name in STATUS},
    }


async def test_the_process_looks_the_same(cold: Served, warm: Served, farm: WarmFarm) -> None:
    """Arguments, directory, program, parent, session, limits, signals, capabilities: as of an executed one."""
    assert farm.noded.process
    assert process(cold)["parent, own group, own session"] == [farm.noded.process.pid, True, True]
    assert process(warm) == process(cold)


def environment(served: Served) -> dict[str, str]:
    """Return the environment that /proc shows."""
    entries = plain(served.proc("environ").decode(), served).split("\0")
    assert entries.pop() == ""
    return dict(entry.split("=", 1) for entry in entries)


async def test_the_environment_shown_is_the_servers_own(cold: Served, warm: Served) -> None:
    """It has what it was given, to the byte, but for the number of its socket; nothing of the zygote's."""
    seen, other = environment(cold), environment(warm)
    assert seen.pop("AGENTFARM_SOCKET_FD").isdigit()
    assert other.pop("AGENTFARM_SOCKET_FD").isdigit()
    assert other == seen
    assert other["JUPYTERHUB_API_TOKEN"] == "secret-token-of-the-server-of-USER"


def descriptors(served: Served) -> Counter[str]:
    """Return what a server has open, by kind, but for sockets and pipes, which JupyterLab opens as it goes on."""
    found: Counter[str] = Counter()
    for path in Path(f"/proc/{served.pid}/fd").iterdir():
        found[re.sub(r"\d+", "N", plain(str(path.readlink()), served))] += 1
    return Counter({kind: count for kind, count in found.items() if not kind.startswith(("socket:", "pipe:"))})


async def test_the_same_descriptors_are_open(cold: Served, warm: Served) -> None:
    """No file of noded's or the zygote's stays open."""
    different: list[Counter[str]] = []

    def same() -> bool:
        found = descriptors(warm), descriptors(cold)
        different[:] = [found[0] - found[1], found[1] - found[0]]
        return found[0] == found[1]

    try:
        await eventually(same, "the same descriptors", timeout=40)
    except AssertionError as exc:
        raise AssertionError(different) from exc


# ---- the process, from inside ---------------------------------------------------------------------------------------


async def probed(farm: WarmFarm, user: str, **changes: Any) -> tuple[Served, dict[str, Any]]:
    """Start a server whose configuration tells what its process is like; return that too."""
    folder = farm.folder / user / ".jupyter"
    folder.mkdir(parents=True)
    folder.joinpath("jupyter_server_config.py").write_text((Path(__file__).parents[3] / "warm_probe.py").read_text())
    served = await farm.start(user, **changes)
    text = (served.home / "probe.json").read_text()
    return served, {**json.loads(plain(text, served)), "drawn": json.loads(text)["drawn"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probes(farm: WarmFarm) -> dict[str, dict[str, Any]]:
    """What a cold server tells of itself, and two warm ones."""
    found = {}
    for user, changes in (("quokka-ann", {"LD_BIND_NOW": ""}), ("quokka-ben", {}), ("quokka-cid", {})):
        served, found[user] = await probed(farm, user, variables=changes)
        assert served.warm == (user != "quokka-ann")
        await farm.stop(served)
    return found


async def test_the_process_is_the_same_inside(probes: dict[str, dict[str, Any]]) -> None:
    """Paths, environment, signals, locale, user site, buffers, `__main__`: but for what is named here, all is equal."""
    cold, warm = dict(probes["quokka-ann"]), dict(probes["quokka-ben"])
    assert cold["environment"].pop("LD_BIND_NOW") == ""
    for found in (cold, warm):
        del found["drawn"], found["hash"]  # different in any two servers, see below
    assert warm == cold


async def test_seeds_differ_between_warm_servers(probes: dict[str, dict[str, Any]]) -> None:
    """No number that should surprise is drawn twice, no key is shared; the seed of `hash` is the zygote's, as told."""
    drawn = [probes[user]["drawn"] for user in probes]
    for draws in zip(*drawn, strict=True):
        assert len(set(draws)) == len(draws)
    assert probes["quokka-ben"]["hash"] == probes["quokka-cid"]["hash"] != probes["quokka-ann"]["hash"]


# ---- over HTTP -------------------------------------------------------------------------------------------------------


def answer_of(answer: httpx.Response, served: Served) -> dict[str, Any]:
    """Return what can be compared of an answer."""
    headers = {name: plain(value, served) for name, value in answer.headers.items()}
    for name in ("date", "content-length", "etag", "last-modified", "set-cookie"):
        headers.pop(name, None)
    body = answer.text if "text/html" in answer.headers.get("content-type", "") else ""
    if answer.headers.get("content-type", "").startswith("application/json"):
        body = json.dumps(answer.json(), sort_keys=True)
    return {
        "status": answer.status_code,
        "headers": headers,
        "cookies": cookies(answer, served),
        "body": plain(body, served),
    }


def cookies(answer: httpx.Response, served: Served) -> list[str]:
    """Return names and attributes of the cookies that an answer sets."""
    found = []
    for value in answer.headers.get_list("set-cookie"):
        name, *attributes = plain(value, served).split("; ")
        plain_name = re.sub(r"(127-0-0-1-)?\d{4,5}|state-[A-Za-z0-9]+", "N", name.partition("=")[0])
        kept = [part for part in attributes if not part.lower().startswith(("expires", "max-age"))]
        found.append("; ".join([plain_name, *sorted(kept)]))
    return sorted(found)


@pytest.mark.parametrize("path", GET)
async def test_every_page_answers_the_same(cold: Served, warm: Served, path: str) -> None:
    """Status, headers, cookies and body, with the user's token and without."""
    for served in (cold, warm):
        (served.home / "a.txt").write_text("a")
        os.utime(served.home / "a.txt", (1, 1))
    seen = []
    for served in (cold, warm):
        async with served.client() as client, httpx.AsyncClient(timeout=60) as stranger:
            answers = [await each.get(served.url(path)) for each in (client, stranger)]
        seen.append([answer_of(answer, served) for answer in answers])
    for found in seen:
        for each in found:
            # Tokens that pages are given are drawn for each answer.
            each["body"] = re.sub(r'"(_xsrf|token)": "[^"]*"|started.*?TIME|last_activity.*?TIME', "", each["body"])
            each["body"] = re.sub(r"2\|[0-9a-f|]+|state=[^\"&]+", "", each["body"])
            each["headers"] = {
                name: re.sub(r"(state|code_challenge)=[^&]+", "", text) for name, text in each["headers"].items()
            }
    assert seen[1] == seen[0]


async def test_the_cookie_of_a_login_is_the_servers_alone(warm: Served) -> None:
    """The path of the state cookie is the server's prefix: on "/" it would go to other users' servers (leak 1)."""
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(warm.url("lab"))
    assert answer.status_code == 302
    assert any("state" in cookie for cookie in cookies(answer, warm))
    assert all("Path=/user/USER/" in cookie for cookie in cookies(answer, warm))


async def test_files_workspaces_and_settings_are_the_users_own(cold: Served, warm: Served) -> None:
    """What is written is in the user's home, in the same places, with the same modes (leak 2)."""
    seen = []
    for served in (cold, warm):
        async with served.client() as client:
            body = {"type": "file", "format": "text", "content": "x"}
            statuses = [(await client.put(served.url("api/contents/new.txt"), json=body)).status_code]
            statuses.append((await client.delete(served.url("api/contents/new.txt"))).status_code)
            space = {"data": {}, "metadata": {"id": "mine"}}
            statuses.append((await client.put(served.url("lab/api/workspaces/mine"), json=space)).status_code)
            theme = {"raw": '{"theme": "JupyterLab Dark"}'}
            setting = "lab/api/settings/@jupyterlab/apputils-extension:themes"
            statuses.append((await client.put(served.url(setting), json=theme)).status_code)
        seen.append((statuses, made_in(served)))
    assert seen[1] == seen[0]
    assert seen[1][0] == [201, 204, 204, 204]
    assert ".jupyter/lab/workspaces" in dict(seen[1][1])


def made_in(served: Served) -> list[tuple[str, int]]:
    """Return what JupyterLab has made, with its modes."""
    found = sorted((served.home / ".jupyter" / "lab").rglob("*"))
    names = [re.sub(r"-[0-9a-f]{4}\.", "-N.", str(path.relative_to(served.home))) for path in found]
    return [(name, path.stat().st_mode) for name, path in zip(names, found, strict=True)]


# ---- kernels and terminals -------------------------------------------------------------------------------------------

TELL = """
import json, os, resource, signal, sys
print(json.dumps({
    "environment": dict(os.environ), "cwd": os.getcwd(), "path": sys.path, "umask": os.umask(0o22),
    "flags": str(sys.flags).replace("utf8_mode=1", "utf8_mode=0"), "descriptors": len(os.listdir("/proc/self/fd")),
    "limits": [resource.getrlimit(number) for number in range(10)], "groups": os.getgroups(),
    "signals": [str(signal.getsignal(number)).split(" at ")[0] for number in signal.Signals],
    "status": [line for line in open("/proc/self/status").read().splitlines() if line[:4] in ("SigB", "SigI", "SigC")],
}))
"""


async def connected(served: Served, path: str) -> WebSocketClientConnection:
    """Return a WebSocket to a server."""
    headers = {"Authorization": f"token token-of-{served.user}"}
    return await websocket_connect(HTTPRequest(served.url(path).replace("http", "ws", 1), headers=headers))


async def executed(served: Served, kernel: str, code: str) -> str:
    """Return what a cell prints."""
    peer = await connected(served, f"api/kernels/{kernel}/channels")
    header = {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "s", "date": "", "version": "5"}
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
    await peer.write_message(json.dumps(message))
    printed, idle, replied = "", False, False
    while not (idle and replied):
        answer = json.loads(await peer.read_message() or "{}")
        kind, told = answer["header"]["msg_type"], answer["content"]
        printed += told["text"] if kind == "stream" else "".join(told["traceback"]) if kind == "error" else ""
        ours = answer["parent_header"].get("msg_id") == "1"
        idle |= ours and kind == "status" and told["execution_state"] == "idle"
        replied |= ours and kind == "execute_reply"
    peer.close()
    return printed


async def test_kernels_are_the_same(cold: Served, warm: Served) -> None:
    """Several kernels of each server: environment, directory, umask, signals, limits, interrupt."""
    # Without a locale a warm server's kernels have the server's UTF-8 mode; others have a variable for the same.
    seen = []
    for served in (cold, warm):
        async with served.client() as client:
            made = [(await client.post(served.url("api/kernels"), json={"name": "python3"})).json() for _ in range(2)]
            told = [json.loads(plain(await executed(served, kernel["id"], TELL), served)) for kernel in made]
            assert [len((await client.get(served.url("api/kernels"))).json())] == [2]
            ends = [(await client.delete(served.url(f"api/kernels/{kernel['id']}"))).status_code for kernel in made]
        for one in told:
            for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME"):
                one["environment"].pop(name, None)
        assert told[0] == told[1]
        seen.append((told[0], ends))
    assert seen[1][1] == seen[0][1]
    assert {name: seen[1][0][name] for name in seen[0][0]} == seen[0][0]


async def test_terminals_are_the_same(cold: Served, warm: Served) -> None:
    """A terminal of each: the shell's environment, directory and umask."""
    seen = []
    for served in (cold, warm):
        async with served.client() as client:
            name = (await client.post(served.url("api/terminals"))).json()["name"]
            peer = await connected(served, f"terminals/websocket/{name}")
            await peer.write_message(json.dumps(["stdin", "umask; pwd; env | sort; ulimit -a; echo e''nd\n"]))
            text = ""
            while "\nend" not in text:
                kind, told = json.loads(await peer.read_message() or "[]")
                text += told if kind == "stdout" else ""
            peer.close()
            assert (await client.delete(served.url(f"api/terminals/{name}"))).status_code == 204
        lines = [line for line in plain(text, served).splitlines() if not line.startswith(("_=", "\x1b", "JPY"))]
        seen.append([line for line in lines if "ulimit" not in line])
    assert seen[1] == seen[0]
