"""One form for lines about an event: words for people, then what it is about as fields for programs.

::

    running node=gpu01 server=ada/train lease=3f… url=http://10.0.0.11:41001
    released node=gpu01 server=ada/train lease=3f… end=oom detail="the server was killed because …"

``node``, ``server`` (owner and name; the default server has the empty name) and ``lease`` come first and have the same
names in the controller, in noded and in the Hub, so that one search finds the whole life of a server in all logs.
Fields are in logfmt: a value with a space, a quote, an equals sign or a control character is in double quotes with
JSON's escapes, and so stays on one line whoever wrote it; what is not known is left out.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .models import Lease

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_FIRST = ("node", "server", "lease")


class LogLine:
    """The message of a log record; it is written down only when somebody reads it.

    Parameters
    ----------
    words
        What happened, short, without values.
    fields
        What it is about; those that are None are left out.
    """

    def __init__(self, words: str, **fields: object) -> None:
        self.words = words
        self.fields = {name: fields[name] for name in _FIRST if name in fields} | fields

    def __str__(self) -> str:
        shown = (f"{name}={_value(value)}" for name, value in self.fields.items() if value is not None)
        return " ".join((self.words, *shown))


def about(lease: Lease) -> dict[str, Any]:
    """Return the fields that name a lease."""
    return {"node": lease.node, "server": f"{lease.owner}/{lease.server_name}", "lease": lease.id}


def server_of(spawner: Any) -> str:
    """Return the name that a spawner's server has in all lines."""
    return f"{spawner.user.name}/{spawner.name}"


def _value(value: object) -> str:
    if isinstance(value, (tuple, list)):
        value = ",".join(map(str, value))
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    # ensure_ascii: an unprintable or reordering character of whoever wrote the value reaches no terminal.
    return text if _PLAIN.fullmatch(text) and text.isascii() else json.dumps(text)
