"""Changing owners' limits: in the database first, then for every decision from now on, those who wait included."""

from __future__ import annotations

import logging

from ..errors import InvalidField
from ..inventory import Database
from ..logs import LogLine
from ..models import OwnerLimits
from ..placement import LeaseBook, OwnerLimitBook, Placement, owner_limit_store
from ..placement.owner_limits import NO_OWNER_LIMITS

log = logging.getLogger(__name__)

_NAME_CHARACTERS = 255


class OwnerLimitKeeper:
    """Keeps the owners' limits over restarts.

    Parameters
    ----------
    database
        An open database.
    limits
        What placement reads.
    placement, book
        Whose line is decided anew, and whose clock it is.
    """

    def __init__(self, database: Database, limits: OwnerLimitBook, placement: Placement, book: LeaseBook) -> None:
        self._database = database
        self._limits = limits
        self._placement = placement
        self._book = book

    async def open(self) -> None:
        """Load what is stored."""
        for owner, limits in (await self._database.run(owner_limit_store.load)).items():
            self._limits.put(owner, limits)

    def of(self, owner: str) -> OwnerLimits:
        """Return an owner's limits; of one without any, a record that limits nothing.

        Raises
        ------
        InvalidField
            No owner can have such a name.
        """
        return self._limits.of(_checked(owner))

    async def put(self, owner: str, limits: OwnerLimits, by: str) -> OwnerLimits:
        """Set an owner's limits and decide anew about those who wait; a record that limits nothing ends them.

        Raises
        ------
        InvalidField
            No owner can have such a name.
        """
        _checked(owner)
        now = self._book.now()
        async with self._placement.paused():  # no decision is made by what was allowed before
            if limits == NO_OWNER_LIMITS:
                await self._database.run(lambda connection: owner_limit_store.delete(connection, owner))
            else:
                await self._database.run(lambda connection: owner_limit_store.save(connection, owner, limits, now, by))
            self._limits.put(owner, limits)
        log.info(LogLine("owner limited", owner=owner, by=by, limits=limits))
        await self._placement.advance()
        return limits


def _checked(owner: str) -> str:
    if not 0 < len(owner) <= _NAME_CHARACTERS or not owner.isprintable():
        raise InvalidField("owner", f"the name of a Hub user, of at most {_NAME_CHARACTERS} characters", owner)
    return owner
