"""The first kernel of a warm server is a fork too, and the same as one that is started."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from kernel_ways import MODULES, SEEN, alive, zygote_pid
from waiting import eventually
from warm_farm import SERVER, Served, WarmFarm

from jupyterhub_agentfarm.noded import procfs

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

OFF = "--WarmKernels.enabled=False"
#: Differs between two starts of one kernel; what servers import adds filters of warnings, and six's finder.
OWN = {"arguments", "environment", "environment in /proc", "parent as told", "import system", "warnings"}
#: Variables that each run of a notebook has for itself.
RUN = re.compile(r'"(AGENTFARM_(?:RUN_ID|ARTIFACTS)(?:": "|=)[^"]*)"(?:, )?')
ASKED = f"""
import {", ".join(MODULES.split())}
print(json.dumps({{name: eval(expression) for name, expression in {SEEN!r}.items()}}))
"""


def children(pid: int) -> dict[int, list[str]]:
    """Return the commands of a process's living children."""
    found = [child for child in procfs.scan().values() if child.ppid == pid and not child.zombie]
    return {child.pid: Path(f"/proc/{child.pid}/cmdline").read_text().split("\0") for child in found}


def zygotes(served: Served) -> list[int]:
    """Return the processes that a server's kernels are forked from."""
    return [pid for pid, words in children(served.pid).items() if "jupyterhub_agentfarm.kernels.zygote" in words]


def inborn(served: Served) -> int:
    """Return the zygote that a server was born with."""
    (found,) = zygotes(served)
    return found


def environment(pid: int) -> list[str]:
    """Return the variables that /proc shows of a process."""
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def opened(pid: int) -> list[str]:
    """Return what a process has open."""
    return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]


async def first_kernel(farm: WarmFarm, user: str, *options: str) -> tuple[Served, dict[str, str]]:
    """Start a server that is warm, and return what its first kernel says of itself, as JSON."""
    variables = {"AGENTFARM_QUOKKA": "a value with = and ä"}
    served = await farm.start(user, command=[*SERVER, *options], variables=variables)
    assert served.warm
    return served, {
        name: _plain(json.dumps(value), served) for name, value in json.loads(await served.ran(ASKED)).items()
    }


def _plain(text: str, served: Served) -> str:
    """Return a text without what is one server's own."""
    names = {served.home: "HOME", served.lease: "LEASE", served.user: "USER", served.pid: "PID"}
    # Without a locale the kernel has the server's UTF-8 mode; one that is started has a variable for the same.
    for name, word in (names | {served.status["port"]: "PORT", "utf8_mode=1": "utf8_mode=0"}).items():
        text = text.replace(str(name), word)
    return text


async def test_what_the_first_kernel_sees_of_itself(farm: WarmFarm) -> None:
    """It is the same whether the kernel was forked from what its server was born with, or started."""
    cold, started = await first_kernel(farm, "quokka-off", OFF)
    warm, forked = await first_kernel(farm, "quokka-on")
    assert 'agentfarm_kernel_starts_total{reason="",way="warm"} 1.0' in (await warm.get("metrics")).text
    for name in SEEN.keys() - OWN:
        assert forked[name] == started[name], name
    for name in ("environment", "environment in /proc"):
        assert RUN.sub("", forked[name]) == RUN.sub("", started[name])
    assert '"AGENTFARM_QUOKKA": "a value with = and \\u00e4"' in forked["environment"]
    assert zygotes(cold) == []
    await farm.stop(cold)
    await farm.stop(warm)


async def test_it_belongs_to_the_server_and_ends_with_it(farm: WarmFarm) -> None:
    """It shows the server's variables but for its socket, has no descriptor of it, and goes when that is killed."""
    served = await farm.start("quokka-mother")
    assert served.warm
    zygote = inborn(served)
    assert f"AGENTFARM_LEASE_ID={served.lease}" in environment(zygote)
    assert not [entry for entry in environment(zygote) if entry.startswith("AGENTFARM_SOCKET_FD")]
    assert sorted(link.startswith("socket:") for link in opened(zygote)) == [False, False, False, True]
    assert int(await served.ran("import os; print(os.getppid())")) == zygote
    assert zygote_pid(zygote) == served.pid
    os.kill(served.pid, signal.SIGKILL)
    await eventually(lambda: not alive(zygote), "the zygote has ended")
    await farm.stop(served)


async def test_switched_off(farm: WarmFarm) -> None:
    """Then the first kernel is forked from a process that the server has started."""
    served = await farm.start("quokka-pure", command=[*SERVER, "--WarmKernels.inborn=False"])
    assert served.warm
    assert zygotes(served) == []
    parent, servers = (await served.ran("import os, sys; print(os.getppid(), 'jupyter_server' in sys.modules)")).split()
    assert (zygote_pid(int(parent)), servers) == (served.pid, "False")
    await farm.stop(served)


async def test_one_that_has_died_is_replaced(farm: WarmFarm) -> None:
    """Kernels are forked from an ordinary zygote then."""
    served = await farm.start("quokka-widow")
    assert served.warm
    born = inborn(served)
    os.kill(born, signal.SIGKILL)
    await eventually(lambda: not alive(born), "it has ended")
    parents = {int(await served.ran("import os; print(os.getppid())")) for _ in range(2)}
    assert born not in parents
    assert served.pid not in parents, "none was started cold"
    assert {zygote_pid(parent) for parent in parents} == {served.pid}
    await farm.stop(served)


async def test_a_variable_of_the_configuration_is_not_missed(farm: WarmFarm) -> None:
    """A server whose configuration changes what imports have read has its kernels forked from another zygote."""
    folder = farm.folder / "quokka-mover" / ".jupyter"
    folder.mkdir(parents=True)
    (folder / "jupyter_server_config.py").write_text("import os\nos.environ['XDG_CACHE_HOME'] = '/tmp/elsewhere'\n")
    served = await farm.start("quokka-mover")
    assert served.warm
    born = inborn(served)
    told = await served.ran("import jedi, os; print(os.getppid(), jedi.settings.cache_directory)")
    parent, cache = told.split()
    assert int(parent) not in (born, served.pid)
    assert cache.startswith("/tmp/elsewhere")
    assert not alive(born)
    await farm.stop(served)
