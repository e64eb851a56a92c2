"""Samples of a run as text, piece by piece: those of a day need not be in memory at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from ..records import to_json
from .models import Sample
from .sampler import QUANTITIES

#: Samples that are in one piece.
_PIECE = 500


async def json_text(samples: AsyncIterator[Sample]) -> AsyncIterator[str]:
    """Give ``{"samples": [...]}``."""
    lead = '{"samples": ['
    async for piece in _pieces(samples):
        yield lead + ", ".join(json.dumps(to_json(sample)) for sample in piece)
        lead = ", "
    yield (lead if lead != ", " else "") + "]}"


async def csv_text(samples: AsyncIterator[Sample]) -> AsyncIterator[str]:
    """Give a line for each sample; what is not known is empty."""
    yield ",".join(("time", "scope", "name", *QUANTITIES)) + "\n"
    async for piece in _pieces(samples):
        yield "".join(_line(sample) for sample in piece)


def _line(sample: Sample) -> str:
    values = (f"{sample.values[key]:g}" if key in sample.values else "" for key in QUANTITIES)
    return ",".join((f"{sample.at:.3f}", sample.scope, sample.name, *values)) + "\n"


async def _pieces(samples: AsyncIterator[Sample]) -> AsyncIterator[list[Sample]]:
    piece: list[Sample] = []
    async for sample in samples:
        piece.append(sample)
        if len(piece) == _PIECE:
            yield piece
            piece = []
    if piece:
        yield piece
