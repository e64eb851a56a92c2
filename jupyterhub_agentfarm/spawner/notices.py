"""What the Hub's pages tell a user unasked: why a server of theirs ended, once.

JupyterHub's `page.html`, which home, options, progress and "not running" pages extend, shows the template variable
`announcement`, and a variable that is callable is called with the user who looks. :func:`configure` of the farm puts a
:class:`Notices` there. Where a site's own templates or configuration leave it out, the options page shows the same.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from typing import Any

from .past import Past, past_of


class Notices:
    """The variable `announcement`: what the site announces, then the user's own notices.

    Parameters
    ----------
    site
        What the site announces: HTML, or a function that returns it for a user.
    """

    def __init__(self, site: str | Callable[[Any], str] = "") -> None:
        self._site = site

    def __call__(self, user: Any) -> str:
        """Return the HTML for who looks; nothing in it that nodes or users wrote is markup."""
        site = self._site(user) if callable(self._site) else self._site
        own = [f"<div>{html.escape(sentence)}</div>" for sentence in take(user)]
        return "\n".join([*([site] if site else []), *own])


def take(user: Any) -> list[str]:
    """Return what a user is to be told now, and note that it was.

    Parameters
    ----------
    user
        The Hub's user; None and services have no servers.
    """
    now, sentences = time.time(), []
    for row, spawner in _servers(user):
        past: Past = spawner.past if spawner is not None and hasattr(spawner, "past") else past_of(row.state)
        if past.ending is None or not past.ending.due(now):
            continue
        named = f"{row.name}: " if row.name else ""
        sentences.append(named + past.ending.sentence())
        _remember(user, row, spawner, past.shown(now))
    return sentences


def _servers(user: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the database's row of each server of a user, and its spawner where there is one."""
    rows, spawners = getattr(user, "orm_spawners", None) or {}, getattr(user, "spawners", {})
    for name, row in rows.items():
        yield row, spawners.get(name)


def _remember(user: Any, row: Any, spawner: Any, past: Past) -> None:
    state = {key: value for key, value in (row.state or {}).items() if key != "past"} | past.state()
    if state == row.state:
        return
    row.state = state
    if spawner is not None:
        spawner.past = past
    user.db.commit()


def on_every_page(settings: Any) -> bool:
    """Whether the Hub's pages show notices by themselves."""
    return isinstance((settings.get("template_vars") or {}).get("announcement"), Notices)
