"""Progress for everybody who looks."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyterhub_agentfarm.spawner.progress import Progress


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
