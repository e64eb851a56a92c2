"""Two people in a browser: an admin registers an agent and suspends it; between, its owner has it execute a task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hub_process import PASSWORD, HubProcess
from tasks_hub import tasks_hub
from waiting import eventually

playwright = pytest.importorskip("playwright.async_api")

from chromium import browser_context  # noqa: E402 - it needs Playwright

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(240)]


async def log_in(page: playwright.Page, hub: HubProcess, name: str, path: str) -> None:
    """Go to a page of the agents service."""
    await page.goto(f"{hub.url}/services/agents/{path}")
    await page.fill("#username_input", name)
    await page.fill("#password_input", PASSWORD)
    await page.click("#login_submit")
    await page.wait_for_url(f"{hub.url}/services/agents/{path}")


async def register(page: playwright.Page, name: str) -> str:
    """Register an agent and return its token, which is shown this once."""
    await page.get_by_role("button", name="Register an agent").click()
    dialog = page.get_by_role("dialog", name="Register an agent")
    await dialog.get_by_label("Name", exact=True).fill(name)
    await dialog.get_by_label("Owner").fill("ada")
    await dialog.get_by_label("What it is for").fill("adds numbers")
    await dialog.get_by_role("button", name="Register").click()
    shown = page.get_by_role("dialog", name=f"The token of {name}")
    token = await shown.locator("#token-value").input_value()
    await shown.get_by_role("button", name="I have kept it").click()
    await page.wait_for_selector("#token:not([open])", state="attached")

    async def forgotten() -> bool:
        return token not in await page.content() and await page.locator("#token-value").input_value() == ""

    await eventually(forgotten, "the page has forgotten the token")
    return token


async def as_agent(hub: HubProcess, token: str) -> tuple[int, Any]:
    """Return what an agent is answered that asks for its tasks."""
    url, headers = f"{hub.url}/services/agents/api/v1/tasks", {"Authorization": f"Bearer {token}"}
    async with hub.http.get(url, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_from_the_registration_to_the_result(tmp_path: Path) -> None:
    """The whole way, in one sitting: the output of a cell is seen before the notebook has ended."""
    go = tmp_path / "go"
    wait = f"while not pathlib.Path({str(go)!r}).exists():\n    time.sleep(0.05)\nprint('went', 'on')"
    cells = [nbformat.v4.new_code_cell(source) for source in ("import pathlib, time\nprint('sum', 40 + 2)", wait)]
    (tmp_path / "adding.ipynb").write_text(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))
    async with tasks_hub(1) as site, browser_context(tmp_path / "failed.png") as context:
        hub, admin = site.hub, await context.new_page()
        await log_in(admin, hub, "admin", "")
        token = await register(admin, "adder")
        assert await as_agent(hub, token) == (200, {"tasks": [], "cursor": None})

        async with browser_context(tmp_path / "failed-of-ada.png") as adas:
            page = await adas.new_page()
            await log_in(page, hub, "ada", "agents/adder")
            assert await page.get_by_role("button", name="Suspend").count() == 0
            await page.get_by_text("not used yet").or_(page.get_by_text("used last")).wait_for()
            await page.get_by_role("button", name="Submit a task").click()
            dialog = page.get_by_role("dialog", name="Submit a task")
            await dialog.get_by_label("File", exact=True).set_input_files(tmp_path / "adding.ipynb")
            await dialog.get_by_role("button", name="Submit").click()
            await page.get_by_role("heading", name="adding").wait_for()
            frame = page.frame_locator(".notebook iframe:not(.waiting)")
            await frame.get_by_text("sum 42").wait_for()
            assert await page.locator("#state").get_by_text("executing").is_visible()
            assert await frame.get_by_text("went on", exact=True).count() == 0
            go.touch()
            await frame.get_by_text("went on", exact=True).wait_for()
            await page.locator("#state").get_by_text("completed").wait_for()
            await page.get_by_text(re.compile("on n1, server task-")).wait_for()

        await admin.get_by_role("link", name="adding").wait_for()
        await admin.get_by_role("link", name="adder").first.click()
        await admin.get_by_role("button", name="Suspend").click()
        dialog = admin.get_by_role("dialog", name="Suspend adder")
        await dialog.get_by_label("Reason").fill("enough for today")
        await dialog.get_by_role("button", name="Suspend").click()
        await admin.locator("#state").get_by_text("enough for today").wait_for()
        assert (await as_agent(hub, token))[0] in (401, 403)
