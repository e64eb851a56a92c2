"""What a process has from executing its program, and no fork can change: some variables, and where Python looks."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

#: A zygote may be started with these, for servers that have the same values: they can do nothing but slow it down.
CARRIED = re.compile(r"LANG|LANGUAGE|LC_[A-Z]+|TZ|[A-Z0-9_]*_NUM_THREADS|AGENTFARM_SHORTCUTS")
#: What the loader, the allocator or Python does is changed by these: a zygote, which may be root, is never given them.
REFUSED = re.compile(r"LD_.*|PYTHON.*|MALLOC_.*|GLIBC_TUNABLES|TCMALLOC.*|JEMALLOC.*|OPENSSL_CONF|OPENSSL_MODULES")
FIXED = re.compile(f"{CARRIED.pattern}|{REFUSED.pattern}")


def carried(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that a zygote for a server of this environment is started with."""
    return tuple(sorted((name, value) for name, value in environment.items() if CARRIED.fullmatch(name)))


def refused(environment: Mapping[str, str]) -> str | None:
    """Return a variable that only a cold start gives effect to, or None."""
    return next((name for name in sorted(environment) if REFUSED.fullmatch(name)), None)


def leave_directory() -> None:
    """Have Python import nothing from the directory that it was started in, which is ``/``."""
    if sys.path and sys.path[0] in ("", "/"):
        del sys.path[0]
