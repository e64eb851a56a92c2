"""The farm page in a browser: the waiting line as it changes, and the way out of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from controllers import controller, gpu_nodes, ready
from node_records import request

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.timeout(120)]
playwright = pytest.importorskip("playwright.async_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
async def test_a_request_is_cancelled_on_the_page(tmp_path: Path) -> None:
    """The first in line is taken out by its button, after a question; the page shows the others move up in 2 s."""
    async with (
        gpu_nodes("a") as nodes,
        controller(tmp_path, *nodes) as farm,
        playwright.async_playwright() as running,
    ):
        browser = await running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = await browser.new_page()
        await ready(farm, 1)
        for owner in ("ada", "bob", "eve", "joe"):
            await farm.client.place(request(owner, gpus=1))
        token = (Path(farm.app.runtime_dir) / "token").read_text().strip()
        await page.set_extra_http_headers({"Authorization": f"token {token}"})
        page.on("dialog", lambda dialog: dialog.accept())
        await page.goto(farm.client._base())
        expect, rows = playwright.expect, page.locator("#line tr")
        await expect(page.locator("#line button")).to_have_count(3)
        await expect(rows.nth(0)).to_contain_text("bob")
        await page.evaluate(
            "for (const each of document.querySelectorAll('#line button, #nodes .card')) each.id ||= 'old'"
        )
        await expect(page.locator("#nodes .card#old")).to_have_count(0, timeout=20_000)  # its node has reported
        assert await page.locator("#line button#old").count() == 3  # one that is replaced while pressed is not pressed
        await page.get_by_role("button", name="Cancel the request of bob").click()
        for position, owner in ((1, "eve"), (2, "joe")):
            await expect(rows.nth(position - 1)).to_contain_text(owner, timeout=2_000)
            await expect(rows.nth(position - 1).locator("td").nth(0)).to_have_text(str(position), timeout=2_000)
        await expect(rows).to_have_count(2)
        assert sorted((lease.owner, lease.state) for lease in await farm.client.leases()) == [
            ("ada", "granted"),
            ("eve", "waiting"),
            ("joe", "waiting"),
        ]
        for lease in await farm.client.leases():
            await farm.client.release(lease.id, 0)
        await browser.close()
