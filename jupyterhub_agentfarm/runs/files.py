"""Files that are replaced atomically: a reader sees the old or the new content, and a crash leaves one of them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path` by a file of `content` with permissions `mode`, less the umask.

    The content is not forced to the disk: this guards against a crash of a process, not of the machine, and costs
    well under a millisecond for a small file.

    Raises
    ------
    OSError
        The file cannot be written; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
