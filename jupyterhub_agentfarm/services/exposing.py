"""Pages in Prometheus' text format, which every service of the farm has one of."""

from __future__ import annotations

from typing import ClassVar

from ..errors import InvalidField
from .handlers import ServiceHandler


class ExposingHandler(ServiceHandler):
    """A handler of a page in the text format 0.0.4, for who may read metrics."""

    scopes: ClassVar[dict[str, str]] = {"GET": "read:metrics"}

    def chosen_set(self, sets: tuple[str, ...], default: str) -> str:
        """Return the set of metrics that is asked for.

        Raises
        ------
        InvalidField
            There is no such set.
        """
        which: str = self.get_query_argument("set", default)
        if which not in sets:
            raise InvalidField("set", "one of " + ", ".join(sets), which)
        return which

    def expose(self, text: str | bytes) -> None:
        """Finish with a text."""
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(text)  # not awaited: a scraper that gave up is no fault

    def compute_etag(self) -> None:
        """Make none: every scrape is another text, and hashing it would take as long as making it."""
