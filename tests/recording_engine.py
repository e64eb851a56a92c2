#!/usr/bin/env python3
"""Stands in for docker and podman: writes down how it was called, and does as the folder of its name says.

In ``$RECORDING`` there may be ``fails-WORD`` (the subcommand fails, with the file's text on stderr), ``answer-WORD``
(what it prints), and ``inside``: then `run` executes what would run in the container. Every call is a line of JSON in
``calls``: the arguments and, for `run`, what came through stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Record a call and answer it."""
    folder = Path(os.environ.get("RECORDING") or Path(sys.argv[0]).parent)
    word = sys.argv[1]
    given = sys.stdin.read() if word == "run" else ""
    environment = sorted(os.environ)
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps({"argv": sys.argv[1:], "stdin": given, "environment": environment}) + "\n")
    if (folder / f"fails-{word}").exists():
        sys.stderr.write((folder / f"fails-{word}").read_text())
        return 1
    if (folder / f"answer-{word}").exists():
        sys.stdout.write((folder / f"answer-{word}").read_text())
    if word == "run" and (folder / "inside").exists():
        inside = sys.argv[sys.argv.index("IMAGE") + 1 :]
        return subprocess.run(inside, input=given, text=True, check=False).returncode
    if word == "run" and (folder / "status").exists():
        return int((folder / "status").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
