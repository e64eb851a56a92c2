"""Request bodies: JSON that is declared as JSON, and nothing that JSON has not.

Python's own reader takes more than the format allows: ``NaN`` and ``Infinity``, numbers beyond a float, strings that
no UTF-8 can carry, and nesting until the stack ends. Each of these would fail later, far from whoever sent it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from .errors import InvalidField, WrongContentType

_WHERE = "the request body"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def check_content_type(content_type: str) -> None:
    """Refuse a body that is not declared as JSON: a form of another site's page can send any other kind.

    Raises
    ------
    WrongContentType
        It is another media type, or none.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media != "application/json":
        raise WrongContentType(content_type)


def decode(body: bytes, *, constants: bool = False) -> Any:
    """Return what a body says.

    Parameters
    ----------
    body
        The bytes that came.
    constants
        Take ``NaN`` and ``Infinity`` too, as Python's writer makes them.

    Raises
    ------
    InvalidField
        It is not JSON.
    """
    try:
        strict: dict[str, Any] = {} if constants else {"parse_constant": _refuse_constant, "parse_float": _finite}
        # Given bytes, it would guess at UTF-16 too, and let half of a surrogate pair through.
        data = json.loads(body.decode("utf-8"), **strict)
        if _SURROGATE.search(body):
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise InvalidField(_WHERE, "JSON whose strings are Unicode", "one with half of a surrogate pair") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidField(_WHERE, "JSON", f"{len(body)} bytes of something else") from exc
    return data


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidField(_WHERE, "JSON, which has no such number", name)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidField(_WHERE, "JSON with numbers below 1e308", text)
    return value
