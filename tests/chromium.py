"""The machine's own Chromium."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, async_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-quic"]


@asynccontextmanager
async def browser_context(screenshot: Path | None = None, **options: Any) -> AsyncIterator[BrowserContext]:
    """Open a browser; a failure leaves a `screenshot` of its first page."""
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    async with async_playwright() as running:
        browser = await running.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            context = await browser.new_context(viewport={"width": 1400, "height": 900}, **options)
            context.set_default_timeout(60_000)
            try:
                yield context
            except BaseException:
                if screenshot is not None and context.pages:
                    await context.pages[0].screenshot(path=screenshot)
                raise
        finally:
            await browser.close()
