"""The description of a service's API, at ``api/v1/openapi.json``."""

from __future__ import annotations

from collections.abc import Mapping

from .handlers import ServiceHandler

#: How a request says who makes it.
SECURITY: Mapping[str, Mapping[str, str]] = {
    "hubToken": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of a Hub user or service that may access this service; `Authorization: token …` too.",
    },
    "hubLogin": {
        "type": "apiKey",
        "in": "header",
        "name": "X-XSRFToken",
        "description": "The cookie of a login through the Hub, with the page's XSRF token beside it.",
    },
}
#: Refusals that come before any handler.
REFUSALS: Mapping[int, str] = {401: "unauthenticated", 403: "forbidden"}


class DescriptionHandler(ServiceHandler):
    """``openapi.json``."""

    async def get(self) -> None:
        """Describe this API in OpenAPI 3.1."""
        self.answer(self.service.openapi())
