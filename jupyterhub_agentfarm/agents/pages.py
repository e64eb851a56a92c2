"""The pages of agents and tasks."""

from __future__ import annotations

from typing import Any

from ..services.handlers import PageHandler


class AgentsPage(PageHandler):
    """Agents and tasks."""

    async def get(self) -> None:
        """Show the page."""
        self.render_page("error.html", title="Agents", message="There is nothing here yet.")


#: Routes below the service's prefix.
ROUTES: list[tuple[Any, ...]] = [(r"", AgentsPage)]
