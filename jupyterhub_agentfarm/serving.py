"""A server tells whoever started it that it answers.

A server that was forked is started once more, in the ordinary way, when it does not come to that.
"""

from __future__ import annotations

from collections.abc import Callable

#: This process was forked from one that had imported what servers need.
forked = False
#: Called once the server's loop runs; None: nobody waits.
listener: Callable[[], None] | None = None


def tell() -> None:
    """Say that the server answers."""
    global listener
    waiting, listener = listener, None
    if waiting is not None:
        waiting()
