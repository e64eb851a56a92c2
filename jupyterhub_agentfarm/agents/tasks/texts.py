"""Words of kernels and servers, as they are kept."""

from __future__ import annotations


def plain(text: str, most: int) -> str:
    """Return a kernel's or a server's words as every database takes them, and no more of them than `most`."""
    text = text[: most + 1].replace("\0", "\ufffd").encode(errors="replace").decode()
    return text if len(text) <= most else text[: most - 1] + "…"
