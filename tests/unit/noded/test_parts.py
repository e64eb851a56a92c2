"""Parts of noded that are plain functions."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.errors import GpuBusy, InvalidField
from jupyterhub_agentfarm.noded import cgroups
from jupyterhub_agentfarm.noded.claims import Claims
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
