"""A person in a browser: log in, choose a GPU, watch the progress, land in JupyterLab, run a cell."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hub_process import PASSWORD, HubProcess, hub_process
from ssh_node import ssh_node
from waiting import eventually

playwright = pytest.importorskip("playwright.async_api")

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(240)]

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-quic"]


@asynccontextmanager
async def browser_page(screenshot: Path) -> AsyncIterator[playwright.Page]:
    """Open a page in the machine's own Chromium; a failure leaves a `screenshot`."""
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    async with playwright.async_playwright() as running:
        browser = await running.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            page = await browser.new_page(viewport={"width": 1400, "height": 900})
            page.set_default_timeout(60_000)
            try:
                yield page
            except BaseException:
                await page.screenshot(path=screenshot)
                raise
        finally:
            await browser.close()


async def test_from_the_login_to_a_cell_that_sees_its_gpu(tmp_path: Path) -> None:
    """The whole way of a person, in one sitting."""
    async with (
        ssh_node("n1", "127.0.0.11", sys.executable, simulated_gpus=1) as node,
        hub_process([node.spec]) as hub,
        browser_page(tmp_path / "failed.png") as page,
    ):
        await eventually(lambda: has_a_ready_node(hub), "n1 is ready", timeout=60)
        await page.goto(f"{hub.url}/hub/spawn")
        await page.fill("#username_input", "ada")
        await page.fill("#password_input", PASSWORD)
        await page.click("#login_submit")
        await page.wait_for_selector("[name=gpus]")
        await page.fill("[name=gpus]", "1")
        await page.click("#spawn_form [type=submit]")
        await page.wait_for_selector("#progress-details, #progress-message, .jp-Launcher", state="attached")
        await page.wait_for_url(re.compile(r"/user/ada/lab"))
        await page.click(".jp-LauncherCard[data-category=Notebook]")
        await page.wait_for_selector(".jp-Notebook .jp-Cell .cm-content")
        await page.wait_for_selector("text=/Python 3.* \\| Idle$/")  # before that JupyterLab drops what is run
        await page.click(".jp-Notebook .jp-Cell .cm-content")
        await page.keyboard.type("import os; print('pinned to', os.environ['CUDA_VISIBLE_DEVICES'])")
        await page.keyboard.press("Shift+Enter")
        output = await page.wait_for_selector(".jp-OutputArea-output >> text=/pinned to GPU-sim/")
        (lease,) = await hub.farm.leases()
        assert (await output.inner_text()).strip() == f"pinned to {lease.gpus[0]}"


async def has_a_ready_node(hub: HubProcess) -> bool:
    """Whether the farm can take a server."""
    return any(node["eligible"] for node in await hub.farm.nodes())
