"""A person in a browser at the benchmark's pages: starts a run, watches it, cancels one, compares two."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmark_service import BenchmarkService
from benchmark_world import World, make_view, opened

playwright = pytest.importorskip("playwright.async_api")

from chromium import browser_context  # noqa: E402 - it imports playwright

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.timeout(180)]

TINY = """
name = "tiny"
title = "Tiny"
description = "One notebook."
sample_interval_seconds = 0.1
[[case]]
name = "one"
notebook = "linear_algebra.ipynb"
[limits]
min_succeeded_ratio = 1.0
"""
NODES: dict[str, Any] = {"n1": {}, "n2": {"gpus": 0}, "big": {"role": "gpuserver"}, "n3": {"state": "down"}}
BROKEN = "name = 'broken'\ntitle = '<b>Broken</b>'\n[[case]]\nname = 'x'\nnotebook = '/etc/passwd'\n"


@asynccontextmanager
async def pages(tmp_path: Path, nodes: dict[str, Any]) -> AsyncIterator[tuple[World, playwright.Page, str, list[str]]]:
    """Run the service in a farm of `nodes`; give its world, a page, its URL, and what the browser complained of."""
    world = World()
    for name, changes in nodes.items():
        world.views[name] = make_view(name, **changes)
    with tempfile.TemporaryDirectory(prefix="af") as folder:
        async with opened(world):
            service = BenchmarkService(Path(folder), world, {"tiny": TINY, "broken": BROKEN})
            client = await service.start()
            url, token = client.url, client.token
            await client.aclose()
            complaints: list[str] = []
            try:
                headers = {"Authorization": f"token {token}"}
                async with browser_context(tmp_path / "failed.png", extra_http_headers=headers) as context:
                    page = await context.new_page()
                    page.on("console", lambda it: complaints.append(it.text) if it.type == "error" else None)
                    page.on("pageerror", lambda error: complaints.append(str(error)))
                    yield world, page, url, complaints
            finally:
                await asyncio.to_thread(service.end, signal.SIGKILL)


async def fits(page: playwright.Page) -> bool:
    """Whether nothing of the page is wider than the window."""
    return bool(await page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


async def run_tiny(page: playwright.Page, url: str, *nodes: str) -> str:
    """Start the suite on `nodes` through the dialog; return the run's id once its page is there."""
    await page.goto(url)
    await page.click("[aria-label='suite tiny'] button")
    for name in nodes:
        await page.check(f"dialog [name=node][value={name}]")
    told = await page.inner_text("dialog .will")
    assert all(name in told for name in nodes), told
    await page.click("text=Start the run")
    await page.wait_for_url("**/runs/*")
    return page.url.rpartition("/")[2]


async def test_a_run_from_start_to_comparison(tmp_path: Path) -> None:
    """Suites and problems are shown, a run is started and watched to its end, another is cancelled, two compared."""
    async with pages(tmp_path, NODES) as (world, page, url, complaints):
        await page.goto(url)
        note = await page.inner_text(".problem")
        assert "broken.toml" in note
        assert await page.locator("[aria-label='suite smoke']").count() == 1
        await page.click("[aria-label='suite tiny'] button")
        told = await page.inner_text("dialog .will")
        assert "3 nodes (big, n1, n2)" in told
        assert "Not taking part: n3 is down" in told
        await page.fill("dialog [name=labels]", "role=gpuserver")
        assert "1 node (big)" in await page.inner_text("dialog .will")
        await page.fill("dialog [name=duration]", "soon")
        assert "duration as in 30m" in await page.inner_text("dialog .will")
        assert await page.is_disabled("text=Start the run")

        first = await run_tiny(page, url, "n1", "n2")
        await page.wait_for_selector("#run-head .status:text-is('passed')")
        assert "100.5 samples/s" in await page.inner_text("[aria-label='node n1']")
        assert "Phase main began" in await page.inner_text("#run-events")
        assert "held" in await page.inner_text("#run-limits")
        assert await page.locator("#run-charts svg").count() >= 3

        world.behaviour["n1", "one"] = "hang"
        second = await run_tiny(page, url, "n1", "n2")
        await page.wait_for_selector("[aria-label='node n1'] .lane")
        assert await page.locator("#run-bar .progress").count() == 1
        await page.click("text=Cancel…")
        await page.click("text=Let it go on")
        assert await page.inner_text("#run-head .status") in ("starting", "running")
        await page.click("text=Cancel…")
        await page.click("#cancel .danger-fill")
        await page.wait_for_selector("#run-head .status:text-is('cancelled')")

        await page.goto(url)
        for run in (first, second):
            await page.check(f"[aria-label='compare run {run}']")
        await page.click("#compare >> text=Compare")
        rows = await page.wait_for_selector("#run-compare tbody")
        assert "n2" in await rows.inner_text()
        await on_a_small_screen(page, url, first)
        assert complaints == []


async def on_a_small_screen(page: playwright.Page, url: str, run: str) -> None:
    """At 400 pixels in the dark nothing is cut off: the pages, the dialog."""
    await page.set_viewport_size({"width": 400, "height": 800})
    await page.emulate_media(color_scheme="dark")
    await page.goto(f"{url}runs/{run}")
    await page.wait_for_selector("#run-head .status:text-is('passed')")
    assert await fits(page)
    await page.goto(url)
    await page.wait_for_selector("#runs td")
    assert await fits(page)
    await page.click("[aria-label='suite tiny'] button")
    box = await page.locator("dialog[open]").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400


async def test_an_empty_farm(tmp_path: Path) -> None:
    """Without nodes nothing can be started, and the page says why."""
    async with pages(tmp_path, {}) as (_, page, url, complaints):
        await page.goto(url)
        await page.wait_for_selector("text=the farm has no nodes")
        assert await page.is_disabled("[aria-label='suite tiny'] button")
        assert await page.inner_text("#runs") == "Nothing was run yet."
        assert complaints == []
