"""A drain's notice in a real JupyterLab: it appears with the time left, and goes when the drain is taken back."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hub_process import PASSWORD, hub_process
from ssh_node import ssh_node
from waiting import eventually

playwright = pytest.importorskip("playwright.async_api")

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(240)]


def neighbour(name: str) -> ModuleType:
    """Return another test module of this folder: pytest imports each by itself."""
    spec = importlib.util.spec_from_file_location(f"neighbour_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_a_user_is_warned_before_a_drain_stops_the_server(tmp_path: Path) -> None:
    """Drained with a deadline: a toast with reason and time. A later deadline: another one. Uncordoned: none."""
    browser = neighbour("test_browser")
    async with (
        ssh_node("n1", "127.0.0.11", sys.executable) as node,
        hub_process([node.spec]) as hub,
        browser.browser_page(tmp_path / "failed.png") as page,
    ):
        await eventually(lambda: browser.has_a_ready_node(hub), "n1 is ready", timeout=60)
        await hub.add_user("ada")
        await hub.start_server("ada")
        await page.goto(f"{hub.url}/user/ada/lab")
        await page.fill("#username_input", "ada")
        await page.fill("#password_input", PASSWORD)
        await page.click("#login_submit")
        await page.wait_for_url(re.compile(r"/user/ada/lab"))
        await page.wait_for_selector(".jp-Launcher")
        assert await page.locator(".Toastify__toast", has_text="n1 is drained").count() == 0
        await hub.farm.drain("n1", "kernel upgrade", 600)
        toast = page.locator(".Toastify__toast", has_text="n1 is drained (kernel upgrade): save your work")
        await toast.wait_for()
        assert re.search(r"the server stops at \d?\d:\d\d.*, in (9|10) minutes\.", await toast.inner_text())
        await hub.farm.drain("n1", "kernel upgrade", 3 * 3600)
        await page.locator(".Toastify__toast", has_text=re.compile(r"in 1(79|80) minutes")).wait_for()
        await hub.farm.uncordon("n1")
        none = page.locator(".Toastify__toast", has_text="n1 is drained")
        await playwright.expect(none).to_have_count(0, timeout=30_000)
        assert await page.locator(".jp-Launcher").count() == 1
