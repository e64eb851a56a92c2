"""What a fork cannot give, a cold start does, and says why."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.connect import port_names
from kernel_ways import WARM, alive, ipykernel, kernel, kernelspec, warm_kernels, zygote_pid
from waiting import eventually

from jupyterhub_agentfarm.kernels import running
from jupyterhub_agentfarm.kernels import warm as warm_module
from jupyterhub_agentfarm.kernels.conditions import Cold, check_environment, check_options, program
from jupyterhub_agentfarm.kernels.process import KernelProcess
from jupyterhub_agentfarm.kernels.warm import WarmKernels

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def zygotes() -> Iterator[WarmKernels]:
    """Zygotes for the tests of this file."""
    with warm_kernels() as made:
        yield made


@pytest.fixture
def warm(zygotes: WarmKernels) -> WarmKernels:
    """The same, with nothing counted."""
    zygotes.starts.clear()
    return zygotes


# ---------------------------------------------------------------- the libraries


async def test_kernels_that_never_pause_do_not_keep_libraries_away() -> None:
    """A library is imported a few seconds later than wanted, however often kernels are asked for."""
    zygote = running.started((sys.executable,), {"libraries": ["wave"], "idle_seconds": 60})
    try:
        await eventually(lambda: any("ready" in said for said in zygote.news()), "the zygote is ready", 60)

        def asked_again() -> bool:
            channel = zygote.fork((0, 1, 2))
            assert channel is not None
            channel.close()
            return any(said.get("preloaded") == "wave" for said in zygote.news())

        await eventually(asked_again, "the library is there", 60, 0.1)
    finally:
        zygote.close()
        await eventually(zygote.gone, "the zygote has ended", 20)


# ---------------------------------------------------------------- the decision


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["R", "-e", "IRkernel::main()"], "program"),
        ([sys.executable, "-c", "import ipykernel_launcher"], "program"),
        ([sys.executable, "-m", "xpython", "-f", "x"], "program"),
        ([sys.executable, "-W", "error", "-m", "ipykernel_launcher"], "program"),
        (["/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "x"], "interpreter"),
        (["~/venv/bin/python", "-m", "ipykernel_launcher", "-f", "x"], "interpreter"),
    ],
)
def test_other_programs_and_interpreters(command: list[str], reason: str) -> None:
    """They are not what a zygote of this interpreter has imported."""
    with pytest.raises(Cold) as refused:
        program(command)
    assert refused.value.reason == reason


def test_options_of_python_are_the_zygotes_too() -> None:
    """They are part of what a zygote is started with; the kernel's arguments are not."""
    taken = program([sys.executable, "-Xfrozen_modules=off", "-I", "-m", "ipykernel_launcher", "-f", "x", "--debug"])
    assert taken.interpreter == (sys.executable, "-Xfrozen_modules=off", "-I")
    assert taken.arguments == ("-f", "x", "--debug")


@pytest.mark.parametrize(
    ("name", "cold"),
    [
        *((name, True) for name in ("LD_PRELOAD", "PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "LC_ALL", "READ")),
        *((name, False) for name in ("CUDA_VISIBLE_DEVICES", "TZ", "MINE", "JPY_SESSION_NAME", "PATH")),
    ],
)
@pytest.mark.parametrize("change", ["set", "changed", "removed"])
def test_variables_that_count_at_the_start_only(name: str, cold: bool, change: str) -> None:
    """A difference in one of those, or in one that was read during the imports, is a reason; in others it is none."""
    zygote = {} if change == "set" else {name: "/before"}
    wanted = {} if change == "removed" else {name: "/after"}
    if cold:
        with pytest.raises(Cold, match=f"environment: {name}"):
            check_environment(wanted, zygote, ["READ"])
    else:
        check_environment(wanted, zygote, ["READ"])
    check_environment(wanted, wanted, ["READ"])


def test_a_relative_search_path() -> None:
    """It would mean another directory in the zygote than in the kernel."""
    for value in ("lib", "/lib:", "/a:b"):
        with pytest.raises(Cold, match="relative"):
            check_environment({"PYTHONPATH": value}, {"PYTHONPATH": value}, [])


def test_options_of_a_launch() -> None:
    """Pipes, kernels that outlive their server and unknown options are not for a fork; open files are."""
    check_options({"stdout": sys.__stdout__, "stderr": 2, "stdin": None, "cwd": "/", "extra_arguments": []})
    for options in ({"stdout": subprocess.PIPE}, {"independent": True}, {"preexec_fn": print}):
        with pytest.raises(Cold) as refused:
            check_options(options)
        assert refused.value.reason == "options"


# ---------------------------------------------------------------- kernels


async def test_a_kernel_of_a_virtual_environment(warm: WarmKernels, tmp_path: Path) -> None:
    """It runs in its own environment, with its own packages."""
    venv.create(tmp_path / "venv", system_site_packages=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "of_the_farm.pth").write_text(next(path for path in sys.path if path.endswith("site-packages")))
    specs = kernelspec(tmp_path / "kernels", "mine", ipykernel(python=str(python)))
    async with kernel(WARM, specs, "mine") as started:
        assert await started.value("__import__('sys').prefix") == str(tmp_path / "venv")
    assert warm.starts == {("cold", "interpreter"): 1}


async def test_variables_of_a_kernelspec(warm: WarmKernels, tmp_path: Path) -> None:
    """One that only counts at the start is given to a cold kernel, any other to a warm one."""
    kernelspec(tmp_path, "threads", ipykernel(), env={"OMP_NUM_THREADS": "3"})
    kernelspec(tmp_path, "mine", ipykernel(), env={"MINE": "3", "HELLO": "${MINE}"})
    for name, variable in (("threads", "OMP_NUM_THREADS"), ("mine", "MINE")):
        async with kernel(WARM, tmp_path, name) as started:
            assert await started.value(f"__import__('os').environ[{variable!r}]") == "3"
    assert warm.starts == {("cold", "environment"): 1, ("warm", ""): 1}


async def test_changed_packages(warm: WarmKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After something is installed, the next kernel is cold and has it, and the one after it is warm and has it too."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    warm.close(20)  # the zygote so far has another search path
    imports = "getattr(__import__('importlib.metadata').metadata, 'version')('thing')"
    async with kernel(WARM) as started:
        assert await started.output(f"print({imports})") == "PackageNotFoundError"
        (tmp_path / "thing-1.0.dist-info").mkdir()
        (tmp_path / "thing-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        (tmp_path / "made_anew").mkdir()
        for _ in range(2):
            async with kernel(WARM) as later:
                assert await later.output(f"print({imports})") == "1.0\n"
        assert warm.starts == {("warm", ""): 2, ("cold", "packages"): 1}
        # The old zygote has stayed to tell how its kernel ended.
        started.client.execute("import os; os._exit(5)")
        assert await started.ended() == 5
    warm.close(20)


async def test_a_killed_zygote(warm: WarmKernels) -> None:
    """Its kernel lives on, is interrupted, and ends; the next kernel has a new zygote."""
    async with kernel(WARM) as first:
        zygote = zygote_pid(first.pid)
        os.kill(zygote, signal.SIGKILL)
        await eventually(lambda: not alive(zygote), "the zygote is gone")
        assert await first.output("print(6 * 7)") == "42\n"
        executing = asyncio.create_task(first.output("import time; print('begun'); time.sleep(60)"))
        await asyncio.wait([executing], timeout=0.5)
        await first.manager.interrupt_kernel()
        assert await executing == "begun\nKeyboardInterrupt"
        async with kernel(WARM) as second:
            assert zygote_pid(second.pid) != zygote
            assert await second.output("print(1)") == "1\n"
        first.client.execute("import os; os._exit(0)")
        assert await first.ended() == 1  # nobody is left to tell that it was 0
    assert ("warm", "") in warm.starts


async def test_a_kernel_that_does_not_come_up_warm(warm: WarmKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started once more, cold."""
    sent = warm_module.Channel.send

    async def spoilt(channel: warm_module.Channel, message: dict[str, object]) -> None:
        await sent(channel, {**message, "directory": "/no/such/directory"})

    monkeypatch.setattr(warm_module.Channel, "send", spoilt)
    async with kernel(WARM) as started:
        assert await started.output("print(1)") == "1\n"
    assert warm.starts == {("cold", "failed"): 1}


@pytest.mark.parametrize("name", ["shell_port", "iopub_port"])
async def test_a_port_that_somebody_else_took(warm: WarmKernels, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Between choosing and binding another process asked for it by its number: the kernel is forked with others.

    One that cannot bind the channel of its output ends as well; ipykernel on its own would stay, and never answer.
    """
    begin = WarmKernels.start
    with contextlib.ExitStack() as somebody:
        taken: list[int] = []

        async def start(kernels: WarmKernels, command: Sequence[str], options: Mapping[str, Any]) -> KernelProcess:
            if not taken:
                taken.append(json.loads(await asyncio.to_thread(Path(command[-1]).read_text))[name])
                somebody.enter_context(socket.create_server(("127.0.0.1", taken[0])))
            return await begin(kernels, command, options)

        monkeypatch.setattr(WarmKernels, "start", start)
        async with kernel(WARM) as started:
            assert await started.output("print(1)") == "1\n"
            assert taken[0] not in started.manager.ports
            told = json.loads(await asyncio.to_thread(Path(started.manager.connection_file).read_text))
            assert [told[name] for name in port_names] == started.manager.ports
    assert warm.starts == {("warm", ""): 1}


async def test_a_zygote_that_cannot_start(warm: WarmKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends before it is ready, and one that takes too long, are not waited for again and again."""
    warm.close(20)
    begun: list[object] = []
    monkeypatch.setattr(warm, "_new", lambda wanted: begun.append(wanted) or WarmKernels._new(warm, wanted))
    monkeypatch.setattr(running, "ZYGOTE", "jupyterhub_agentfarm.kernels.no_such_module")
    for _ in range(2):
        async with kernel(WARM) as started:
            assert await started.output("print(1)") == "1\n"
    assert len(begun) == 1
    warm.close(20)
    monkeypatch.setattr(running, "ZYGOTE", "asyncio")  # it starts, and says nothing of use
    monkeypatch.setattr(warm, "start_timeout", 0.0)
    for _ in range(2):
        async with kernel(WARM) as started:
            assert await started.output("print(1)") == "1\n"
    assert warm.starts == {("cold", "ended"): 2, ("cold", "starting"): 2}
    monkeypatch.undo()
    warm.close(20)


async def test_switched_off() -> None:
    """Then kernels are Jupyter's own."""
    with warm_kernels(enabled=False) as kernels:
        async with kernel(WARM) as started:
            assert zygote_pid(started.pid) == os.getpid()
        assert kernels.starts == {("cold", "disabled"): 1}


# ---------------------------------------------------------------- libraries


LIBRARIES = {
    "harmless": "import os; os.environ['BY_HARMLESS'] = os.environ.get('ASKED', 'unset'); COUNT = [1]",
    "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
    "connected": "import socket; KEPT = socket.socketpair()",
    "failing": "raise RuntimeError('no luck')",
    "crashing": "import os; os._exit(7)",
    "torch": "class cuda:\n    is_initialized = staticmethod(lambda: True)",
}


async def test_libraries_that_kernels_find_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that may be forked are imported; each other one is left out, with the reason in the log."""
    for name, code in LIBRARIES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    caplog.set_level(logging.INFO)
    with warm_kernels(preload=[*LIBRARIES, "numpy"]) as kernels:
        kernels.log.propagate = True

        async def tried() -> bool:
            async with kernel(WARM) as started:
                return bool(await started.value("'numpy' in __import__('sys').modules"))

        await eventually(tried, "all libraries were tried", timeout=90, interval=0.5)
        async with kernel(WARM) as started:
            found = await started.value(f"[name for name in {list(LIBRARIES)} if name in __import__('sys').modules]")
            assert found == ["harmless"]
            assert await started.value("__import__('os').environ['BY_HARMLESS']") == "unset"
            assert await started.value("float(__import__('numpy').ones(3) @ __import__('numpy').ones(3))") == 3
        # What an import has read counts like what the kernel's own has.
        async with kernel(WARM, env={**os.environ, "ASKED": "now"}) as started:
            assert await started.value("__import__('harmless').os.environ['BY_HARMLESS']") == "now"
        assert kernels.starts["cold", "environment"] == 1
    why = {record.args[0]: record.args[1] for record in caplog.records if "do not find" in record.msg and record.args}
    assert why.keys() == LIBRARIES.keys() - {"harmless"}
    assert why["threaded"] == "it left threads running"
    assert why["connected"].startswith("it left open socket")
    assert why["failing"] == "its import failed: RuntimeError: no luck"
    assert why["crashing"] == "its import ended the process with 7"
    assert why["torch"] == "it initialised CUDA"


async def test_libraries_that_look_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that adds a folder of packages, as debugpy does, and one that copies the environment: kernels stay warm."""
    parts = tmp_path / "parts"
    (parts / "part-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "adding.py").write_text(f"import sys; sys.path.insert(0, {str(parts)!r})")
    (tmp_path / "copying.py").write_text("import os; copied = os.environ.copy(); items = dict(os.environ.items())")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with warm_kernels(preload=["adding", "copying"]) as kernels:

        async def imported() -> bool:
            async with kernel(WARM) as started:
                return bool(await started.value("'copying' in __import__('sys').modules"))

        await eventually(imported, "both libraries were imported", timeout=60, interval=0.5)
        async with kernel(WARM, env={**os.environ, "OF_THIS_KERNEL": "7"}) as started:
            assert await started.value(f"{str(parts)!r} in __import__('sys').path")
            assert await started.value("int(__import__('os').environ['OF_THIS_KERNEL'])") == 7
        assert set(kernels.starts) == {("warm", "")}
