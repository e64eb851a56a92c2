"""Progress for everybody who looks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jupyterhub_agentfarm.spawner.progress import Progress, preformatted


async def collect(progress: Progress) -> list[dict[str, Any]]:
    """Return all events that one viewer gets."""
    return [event async for event in progress.follow()]


async def test_every_viewer_sees_everything() -> None:
    """Who comes early, late or after the end gets the same events."""
    progress = Progress()
    early = asyncio.create_task(collect(progress))
    progress.add(1, "a")
    await asyncio.sleep(0)
    late = asyncio.create_task(collect(progress))
    progress.add(2, "b")
    progress.close()
    async with asyncio.timeout(5):
        assert [event["message"] for event in await early] == ["a", "b"]
        assert await late == await early == await collect(progress)


async def test_a_repeated_event_is_shown_once() -> None:
    """The same place in line is not told twice."""
    progress = Progress()
    progress.add(1, "a")
    progress.add(1, "a")
    progress.close()
    assert len(await collect(progress)) == 1


async def test_nothing_of_a_node_is_markup() -> None:
    """Message and log are text, whatever is in them."""
    progress = Progress()
    progress.add(1, "<b>", "</pre><script>")
    progress.close()
    (event,) = await collect(progress)
    assert "&lt;b&gt;" in event["html_message"]
    assert "&lt;/pre&gt;&lt;script&gt;" in event["html_message"]


async def test_a_long_wait_shows_its_latest_place() -> None:
    """However many places a request had in line, who looks now and who looks on see the latest."""
    progress = Progress()
    watching = asyncio.create_task(collect(progress))
    await asyncio.sleep(0)
    for position in range(1000, 0, -1):
        progress.add(10, f"In line, position {position}")
        if position == 900:
            await asyncio.sleep(0)
    progress.close()
    for seen in (await watching, await collect(progress)):
        assert seen[-1]["message"] == "In line, position 1"
    assert len(await collect(progress)) == 500


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("\x1b]0;never ended\nnext", "\nnext"),
        ("a\x00b\x9bc\r\nd\te", "abc\nd\te"),
        ("plain [31m text", "plain [31m text"),
    ],
)
def test_commands_for_terminals_are_left_out(text: str, shown: str) -> None:
    """Colours, titles and control characters of a log are not shown; lines and tabs are."""
    assert preformatted("", text) == f'<div></div><pre class="text-start">{shown}</pre>'
