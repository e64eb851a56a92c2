"""The part of the controller's API that is about owners."""

from __future__ import annotations

from tornado import web

from ..models import OwnerLimits
from ..services.handlers import needs_scope
from .farm_handler import LEASES_READ, LIMITS_MANAGE, FarmHandler


class OwnerLimitsHandler(FarmHandler):
    """``owners/{name}/limits``: what one owner may have, beside what the site allows everybody."""

    scopes = {"PUT": LIMITS_MANAGE, "DELETE": LIMITS_MANAGE}

    async def get(self, name: str) -> None:
        """Show them, to the owner too; of an owner without any, a record that limits nothing."""
        who = self.principal
        owner = who.kind == "user" and who.name == name
        if not (owner or who.may(LIMITS_MANAGE) or who.may(LEASES_READ)):
            raise web.HTTPError(403, needs_scope(who, LIMITS_MANAGE))
        self.answer(self.farm.owner_limits.of(name))

    async def put(self, name: str) -> None:
        """Set them; what waits is decided anew, what runs goes on."""
        self.answer(await self.farm.owner_limits.put(name, self.body(OwnerLimits), self.principal.name))

    async def delete(self, name: str) -> None:
        """End them."""
        await self.farm.owner_limits.put(name, OwnerLimits(), self.principal.name)
        self.answer({})
