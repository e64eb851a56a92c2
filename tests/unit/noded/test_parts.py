"""Parts of noded that are plain functions."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import eventually

from jupyterhub_agentfarm.errors import GpuBusy, InvalidField, LaunchFailed
from jupyterhub_agentfarm.noded import capping, cgroups, listening
from jupyterhub_agentfarm.noded.claims import Claims
from jupyterhub_agentfarm.noded.daemon import Noded, Settings
from jupyterhub_agentfarm.noded.grace import Grace
from jupyterhub_agentfarm.noded.slowcall import CallHangs, SlowCall
from jupyterhub_agentfarm.noded.store import Store, check_lease


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40), max_size=60),
    st.integers(0, 80),
)
def test_the_tail_is_the_end_of_the_log(lines: list[str], wanted: int) -> None:
    """For any log the tail is its last lines, as many as were wanted."""
    with tempfile.TemporaryDirectory(prefix="af") as folder:
        store = Store(Path(folder))
        store.log_path("a").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        assert store.tail("a", wanted).splitlines() == (lines[-wanted:] if wanted else [])


def test_the_tail_of_a_huge_log_is_bounded(tmp_path: Path) -> None:
    """However many lines are wanted, 1000 and 256 KiB are the most."""
    store = Store(tmp_path)
    store.log_path("a").write_bytes(b"x" * 10_000_000)
    assert len(store.tail("a", 10**9)) == 256 * 1024
    store.log_path("a").write_bytes(b"x\n" * 5000)
    assert len(store.tail("a", 10**9).splitlines()) == 1000
    assert store.tail("unknown", 5) == ""


@pytest.mark.parametrize("lease", ["", ".", "../x", "a/b", "-a", "a" * 65, "a\n"])
def test_a_lease_cannot_name_another_file(lease: str) -> None:
    """What could lead out of the folder is no lease."""
    with pytest.raises(InvalidField):
        check_lease(lease)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sets(st.sampled_from("1234")), st.booleans()), max_size=30))
def test_no_gpu_has_two_holders(steps: list[tuple[str, set[str], bool]]) -> None:
    """Whatever is claimed and released in whatever order, a GPU has one holder, and a refused claim takes nothing."""
    claims, model = Claims(), dict[str, str]()
    for lease, gpus, release in steps:
        if release:
            claims.release(lease)
            model = {gpu: holder for gpu, holder in model.items() if holder != lease}
            continue
        free = all(model.get(gpu, lease) == lease for gpu in gpus)
        try:
            claims.take(lease, gpus, set("1234"))
        except GpuBusy:
            assert not free
        else:
            assert free
            model.update(dict.fromkeys(gpus, lease))
        assert {gpu: claims.holders([gpu]) for gpu in "1234"} == {
            gpu: {model[gpu]} if gpu in model else set() for gpu in "1234"
        }


def test_the_nodes_own_name_for_its_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose /etc/hosts has its name at 127.0.1.1 does not listen there; nothing is bound."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(LaunchFailed, match=r"gpu1 means 127\.0\.1\.1"):
        listening.listen("gpu1", None)
    listening.listen("127.0.1.1", None).close()


def test_a_log_that_is_too_long_keeps_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole lines are kept, in their order; the writer goes on at the new end; a shorter log stays as it is."""
    monkeypatch.setattr(capping, "MAX_LOG_BYTES", 1000)
    monkeypatch.setattr(capping, "KEPT_LOG_BYTES", 105)
    monkeypatch.setattr(capping, "_CHUNK_BYTES", 32)
    store = Store(tmp_path)
    handles = {lease: store.open_log(lease) for lease in ("long", "short")}
    for lease, count in (("long", 101), ("short", 100)):
        os.write(handles[lease], b"".join(b"line %4d\n" % number for number in range(count)))
    capping.cap_logs([*(store.log_path(lease) for lease in handles), tmp_path / "gone.log"])
    os.write(handles["long"], b"line next\n")
    lines = store.log_path("long").read_text("ascii").splitlines()
    assert lines == [*(f"line {number:4}" for number in range(91, 101)), "line next"]
    assert store.log_path("long").stat().st_mode & 0o777 == 0o600
    assert store.log_path("short").stat().st_size == 1000
    for handle in handles.values():
        os.close(handle)


async def test_noded_looks_after_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running daemon shortens a log that has become too long, and SIGTERM ends it as always."""
    monkeypatch.setattr(capping, "MAX_LOG_BYTES", 1000)
    monkeypatch.setattr(capping, "KEPT_LOG_BYTES", 100)
    monkeypatch.setattr(capping, "LOOK_SECONDS", 0.01)
    folder = Path(tempfile.mkdtemp(prefix="af"))
    try:
        noded = Noded(Settings(folder))
        running = asyncio.create_task(noded.run())
        await eventually(noded.socket_path.exists, "noded listens")
        path = folder / "servers" / "a.log"
        path.write_text("a line\n" * 1000, "ascii")
        await eventually(lambda: path.stat().st_size < 1000, "the log is shortened")
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            await running
    finally:
        shutil.rmtree(folder)


async def test_a_shorter_grace_holds_before_and_while_it_is_waited_out() -> None:
    """A grace can be shortened at any time and never becomes longer."""
    ended = asyncio.Event()
    async with asyncio.timeout(10):
        for early in (True, False):
            grace = Grace(600)
            waiting = None if early else asyncio.create_task(grace.wait(ended))
            await asyncio.sleep(0)
            grace.shorten(0.01)
            grace.shorten(500)
            await (waiting or grace.wait(ended))


async def test_a_fault_in_a_sample_still_lets_go_of_the_servers(caplog: pytest.LogCaptureFixture) -> None:
    """When sampling fails unexpectedly noded says so and ends as always: its socket and its watches are gone."""
    folder = Path(tempfile.mkdtemp(prefix="af"))
    try:
        noded = Noded(Settings(folder))
        closed = []

        async def fails(_: object) -> None:
            raise ValueError("no such field")

        class Closing(type(noded._launcher)):  # type: ignore[misc]
            async def close(self) -> None:
                closed.append(True)
                await super().close()

        noded._launcher.__class__ = Closing
        noded._sampler.sample = fails  # type: ignore[assignment, method-assign]
        async with asyncio.timeout(10):
            await noded.run()
        assert closed == [True]
        assert not noded.socket_path.exists()
        assert "no such field" in caplog.text
    finally:
        shutil.rmtree(folder)


async def test_a_hanging_call_is_made_once_and_recovers() -> None:
    """While a call hangs no second one is made; after it returned the next poll has a new result."""
    release, calls = threading.Event(), list[int]()

    def function() -> int:
        calls.append(1)
        if len(calls) == 1:
            release.wait(30)
        return len(calls)

    slow = SlowCall("slow", function, timeout=0.05)
    assert await slow.poll(0.01) is None
    for _ in range(3):
        with pytest.raises(CallHangs, match="slow"):
            await slow.poll(0.06)
    assert len(calls) == 1
    release.set()
    async with asyncio.timeout(10):
        while True:
            try:
                if await slow.poll(0.05) == 2:
                    break
            except CallHangs:
                continue


async def test_an_error_of_a_call_reaches_the_caller() -> None:
    """What the function raises, poll raises; the next poll calls again."""
    answers: list[Exception | int] = [ValueError("first"), 5]

    def function() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    slow = SlowCall("failing", function, timeout=5)
    with pytest.raises(ValueError, match="first"):
        await slow.poll(5)
    assert await slow.poll(5) == 5


def test_oom_kills_are_counted_by_the_narrowest_cgroup(tmp_path: Path) -> None:
    """The server's own counter goes before one above it, in either version's form."""
    inner = tmp_path / "unit" / "agentfarm" / "a"
    inner.mkdir(parents=True)
    (tmp_path / "unit" / "memory.events").write_text("low 0\noom 1\noom_kill 7\n", "ascii")
    assert cgroups.oom_kills((str(inner),)) == 7
    (inner / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "ascii")
    assert cgroups.oom_kills((str(inner),)) == 2
