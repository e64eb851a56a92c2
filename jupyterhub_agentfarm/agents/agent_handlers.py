"""The registry's part of the API."""

from __future__ import annotations

from typing import Any

from ..services.description import DescriptionHandler

API = r"api/v1/"

#: Routes below the service's prefix.
ROUTES: list[tuple[Any, ...]] = [(API + r"openapi\.json", DescriptionHandler)]
