"""The pages of agents in a real browser: what is live, and what a hostile notebook cannot do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from agents_site import AgentsSite, agents_site, make_agent
from chromium import browser_context
from node_records import request
from waiting import eventually

from jupyterhub_agentfarm.agents.models import Attempt, Task, TaskError, TaskRequest
from jupyterhub_agentfarm.models import Lease
from jupyterhub_agentfarm.records import to_json

playwright = pytest.importorskip("playwright.async_api")
v4 = nbformat.v4

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.timeout(120)]

#: Each tries to do what only a script, a request or another document could.
HOSTILE = {
    "script": "<script>top.document.title = 'hacked'; fetch('/hostile/script')</script>",
    "handlers": "<img src='/hostile/image' onerror=\"top.document.title = 'hacked'\">"
    "<svg onload=\"fetch('/hostile/svg')\"></svg><input autofocus onfocus=\"fetch('/hostile/focus')\">"
    "<details open ontoggle=\"fetch('/hostile/toggle')\"></details>",
    "documents": "<iframe src='/hostile/frame'></iframe><iframe srcdoc=\"<script>fetch('/hostile/srcdoc')</script>\">"
    "</iframe><object data='/hostile/object'></object><embed src='/hostile/embed'>",
    "head": "<base href='http://hostile.invalid/'><link rel=stylesheet href='/hostile/style.css'>"
    "<meta http-equiv=refresh content='0;url=/hostile/refresh'><style>@import '/hostile/import.css';"
    "body { background: url(/hostile/background) }</style>",
    "names": "<img name=documentElement><form name=body></form><form id=querySelectorAll></form>",
    "link": "<a id=trap href=\"javascript:top.document.title = 'hacked'\">look here</a>",
    "form": "<form action='/hostile/form' method=post><button id=post>press here</button></form>",
}


def notebook(*cells: Any) -> bytes:
    """Return a notebook of these cells as it is kept."""
    return nbformat.writes(v4.new_notebook(cells=list(cells))).encode()


def executed(source: str, *outputs: Any, count: int = 1) -> Any:
    """Return a code cell that was executed."""
    return v4.new_code_cell(source, outputs=list(outputs), execution_count=count)


def hostile() -> bytes:
    """Return a notebook that tries everything, in every place that a notebook has."""
    both = [v4.new_markdown_cell(text) for text in HOSTILE.values()]
    shown = [v4.new_output("display_data", data={"text/html": text}) for text in HOSTILE.values()]
    shown += [
        v4.new_output("display_data", data={"application/javascript": "top.document.title = 'hacked'"}),
        v4.new_output("display_data", data={"image/svg+xml": "<svg onload=\"fetch('/hostile/svg-image')\"/>"}),
        v4.new_output("display_data", data={"text/markdown": HOSTILE["script"]}),
        v4.new_output("display_data", data={"text/latex": HOSTILE["handlers"]}),
        v4.new_output("stream", name="stdout", text=HOSTILE["script"]),
        v4.new_output("error", ename=HOSTILE["script"], evalue=HOSTILE["handlers"], traceback=[HOSTILE["script"]]),
    ]
    return notebook(*both, executed(HOSTILE["script"], *shown), v4.new_markdown_cell("# the end"))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[AgentsSite]:
    """The service with two agents."""
    async with agents_site(tmp_path, [make_agent("bot"), make_agent("other", owner="grace")]) as running:
        yield running


@asynccontextmanager
async def a_page(site: AgentsSite) -> AsyncIterator[playwright.Page]:
    """Open a page for this machine's own account."""
    headers = {"Authorization": f"token {site.token}"}
    async with browser_context(extra_http_headers=headers) as context:
        yield await context.new_page()


async def begun(site: AgentsSite, content: bytes, **request: Any) -> tuple[Task, Attempt]:
    """Return a task of `bot` that executes on n1."""
    task, _ = await site.book.submit(TaskRequest(notebook={}, **request), "bot", "ada", content)
    task, attempt = await site.book.claim(task.id)
    return task, await site.book.note(attempt, phase="running", node="n1")


async def test_a_hostile_notebook_does_nothing(site: AgentsSite) -> None:
    """In the task's page and alone: no script runs, nothing is requested, no form is sent, and the page still works."""
    task, attempt = await begun(site, hostile(), name="<img src=/hostile/name onerror=alert(1)>")
    await site.book.keep_notebook(attempt, hostile())
    error = TaskError(HOSTILE["script"], HOSTILE["handlers"], 0, 1, HOSTILE["script"], (HOSTILE["script"],))
    await site.book.finish(attempt, "cell_error", HOSTILE["handlers"], error)
    async with a_page(site) as page:
        answered: list[str] = []  # blocked requests are not
        page.context.on("response", lambda response: answered.append(response.url))
        page.on("dialog", lambda dialog: answered.append(f"hostile dialog {dialog.message}"))
        for path in (f"tasks/{task.id}", f"tasks/{task.id}/rendered"):
            await page.goto(site.url + path)
            place = page if path.endswith("rendered") else page.frame_locator(".notebook iframe:not(.waiting)")
            await place.get_by_role("heading", name="the end").wait_for()
            await place.locator("#trap").first.click()
            await place.locator("#post").first.click()
            assert "hacked" not in await page.title()
        await page.goto(site.url)
        await page.get_by_role("link", name="<img src=/hostile/name").wait_for()
        assert [what for what in (*answered, *site.asked) if "hostile" in what] == []
        assert f"{site.prefix}tasks/{task.id}/rendered" in site.asked


async def test_the_page_is_as_long_as_its_notebook(site: AgentsSite) -> None:
    """The frame takes the notebook's height, also when elements of it have the names that the page asks for."""
    long = v4.new_markdown_cell("\n\n".join(f"paragraph {number}" for number in range(100)))
    task, attempt = await begun(site, notebook(v4.new_markdown_cell(HOSTILE["names"]), long), name="long")
    await site.book.finish(attempt, "completed")
    async with a_page(site) as page:
        await page.goto(f"{site.url}tasks/{task.id}")
        frame = page.locator(".notebook iframe:not(.waiting)")
        await frame.wait_for()
        assert (await frame.bounding_box())["height"] > 3000


async def test_the_notebook_grows_while_it_is_read(site: AgentsSite) -> None:
    """After each cell its output appears; who has scrolled to a place stays there."""
    cells = [
        v4.new_markdown_cell("\n\n".join(f"paragraph {number}" for number in range(80))),
        v4.new_code_cell("print(1)"),
    ]
    task, attempt = await begun(site, notebook(*cells), name="growing")
    async with a_page(site) as page:
        await page.goto(f"{site.url}tasks/{task.id}")
        frame = page.frame_locator(".notebook iframe:not(.waiting)")
        await frame.get_by_text("paragraph 79").wait_for()
        await page.mouse.wheel(0, 1500)
        await eventually(lambda: holds(page, "scrollY >= 1500"), "the page has scrolled")
        before = await seen_at(frame)
        cells[1] = executed("print(1)", v4.new_output("stream", name="stdout", text="the first output"))
        await site.book.keep_notebook(attempt, notebook(*cells))
        site.book.progress(attempt, 1, 2, 2)
        await frame.get_by_text("the first output").wait_for()
        assert await page.get_by_role("progressbar").get_attribute("aria-valuenow") == "1"
        assert abs(await seen_at(frame) - before) < 2
        cells[1].outputs[0].text += " and the second"
        await site.book.keep_notebook(attempt, notebook(*cells))
        await site.book.finish(attempt, "completed", "it took 2 s")
        await frame.get_by_text("and the second").wait_for()
        await page.locator("#state").get_by_text("completed").wait_for()
        assert abs(await seen_at(frame) - before) < 2


async def holds(page: playwright.Page, expression: str) -> bool:
    """Whether an expression is true on the page; Playwright's own way to wait for one needs `unsafe-eval`."""
    return bool(await page.evaluate(expression))


async def seen_at(frame: playwright.FrameLocator) -> float:
    """Return where in the window the middle of the notebook is."""
    return float((await frame.get_by_text("paragraph 40").bounding_box())["y"])


async def test_links_of_a_notebook_open_outside_of_it(site: AgentsSite) -> None:
    """A link to another site opens a page that does not know where it comes from; one into the notebook scrolls."""
    text = "[away](https://elsewhere.invalid/) and [down](#The-end)\n" + "\n\nline" * 100 + "\n\n# The end"
    task, attempt = await begun(site, notebook(v4.new_markdown_cell(text)), name="links")
    async with a_page(site) as page:
        await page.goto(f"{site.url}tasks/{task.id}")
        frame = page.frame_locator(".notebook iframe:not(.waiting)")
        await frame.get_by_text("down").click()
        await eventually(lambda: holds(page, "scrollY > 1000"), "the page has scrolled")
        async with page.context.expect_page() as opening:
            await frame.get_by_text("away").click()
        assert await (await opening.value).evaluate("opener") is None
        assert attempt.number == 1


async def test_the_board_follows_and_filters(site: AgentsSite) -> None:
    """New tasks and changes appear by themselves; filters are kept in the address."""
    for number in range(3):
        await site.book.submit(TaskRequest(notebook={}, name=f"old {number}"), "bot", "ada", b"{}")
    async with a_page(site) as page:
        await page.goto(site.url)
        rows = page.locator("#tasks tr")
        await page.get_by_role("link", name="old 2").wait_for()
        task, attempt = await begun(site, b"{}", name="new one")
        await rows.first.get_by_text("executing").wait_for()
        await page.get_by_role("button", name="executing", exact=False).first.click()
        await eventually(lambda: settled(rows, 1), "one task executes")
        assert page.url.endswith("?state=executing")
        await site.book.finish(attempt, "completed")
        await page.get_by_text("No task is like this.").wait_for()
        await page.reload()
        await page.get_by_text("No task is like this.").wait_for()
        await page.get_by_role("button", name="Show all").click()
        await eventually(lambda: settled(rows, 4), "all tasks are shown")
        await page.get_by_placeholder("Find a task by its name").fill("OLD")
        await eventually(lambda: settled(rows, 3), "the old ones are shown")
        await rows.first.get_by_role("button", name="Cancel").click()
        assert task.agent == "bot"


async def test_the_board_tells_the_node_of_a_task_in_an_earlier_tasks_server(site: AgentsSite) -> None:
    """The server of a task need not have a name after it."""
    lease = Lease("1" * 32, "bot", "task-00000000-1", "running", 1, request("bot", "task-00000000-1"), 0.0, "n1")
    site.farm.leases[lease.id] = to_json(lease)
    task, _ = await site.book.submit(TaskRequest(notebook={}), "bot", "ada", b"{}")
    await site.book.claim(task.id, lease.server_name)
    async with a_page(site) as page:
        await page.goto(site.url)
        await page.locator("#tasks tr").first.get_by_text("on n1").wait_for()


async def settled(rows: playwright.Locator, count: int) -> bool:
    """Whether so many rows are shown."""
    return await rows.count() == count


async def test_many_tasks_come_in_pages(site: AgentsSite) -> None:
    """Of many tasks the newest are shown, and more when they are asked for."""
    for number in range(120):
        await site.book.submit(TaskRequest(notebook={}, name=f"task {number}"), "bot", "ada", b"{}")
    async with a_page(site) as page:
        await page.goto(site.url)
        rows = page.locator("#tasks tr")
        await page.get_by_text("the newest 50 of 120").wait_for()
        for count in (100, 120):
            await page.get_by_role("button", name="Show more").click()
            await eventually(lambda count=count: settled(rows, count), f"{count} tasks are shown")
        assert not await page.get_by_role("button", name="Show more").is_visible()


async def test_a_task_is_submitted_by_hand(site: AgentsSite, tmp_path: Path) -> None:
    """The dialog uploads a notebook with parameters and resources; what is refused is said in it."""
    (tmp_path / "sum.ipynb").write_bytes(notebook(v4.new_code_cell("1 + 1")))
    async with a_page(site) as page:
        await page.goto(site.url)
        await page.get_by_role("button", name="Submit a task").click()
        dialog = page.get_by_role("dialog", name="Submit a task")
        await dialog.get_by_label("File", exact=True).set_input_files(tmp_path / "sum.ipynb")
        await dialog.get_by_label("Parameters").fill("[1]")
        await dialog.get_by_role("button", name="Submit").click()
        await dialog.get_by_role("alert").get_by_text("must be a JSON object").wait_for()
        await dialog.get_by_label("Parameters").fill(json.dumps({"size": 3}))
        await dialog.get_by_label("Cores").fill("2")
        await dialog.get_by_role("button", name="Submit").click()
        await page.wait_for_url("**/tasks/*")
        await page.get_by_role("heading", name="sum").wait_for()
        task = await site.book.task(page.url.rpartition("/")[2])
        assert (task.agent, task.request.parameters, task.request.options.cpus) == ("bot", {"size": 3}, 2)


@pytest.mark.parametrize("width", [380, 1400])
async def test_pages_fit(site: AgentsSite, width: int) -> None:
    """No page is wider than its window, and each names what it shows."""
    task, attempt = await begun(site, hostile(), name="x" * 200, parameters={"y" * 100: "z" * 500})
    await site.book.finish(
        attempt, "cell_error", "w" * 500, TaskError("E" * 100, "v" * 500, 0, 1, "s" * 500, ("t" * 500,))
    )
    async with a_page(site) as page:
        await page.set_viewport_size({"width": width, "height": 800})
        for path in ("", f"tasks/{task.id}", "agents/bot", "connect", "connect?user=bot"):
            await page.goto(site.url + path)
            await eventually(lambda: holds(page, "!document.body.innerText.includes('Loading…')"), "the page is filled")
            assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
            unnamed = (
                "[...document.querySelectorAll('button, a, input, select')].filter((one) => !one.textContent.trim()"
            )
            unnamed += " && !one.labels?.length && !one.getAttribute('aria-label')).length"
            assert await page.evaluate(unnamed) == 0, path
