"""What modules keep of the process that imported them, set right in a process that was forked for somebody else.

A module is here when too much depends on it to import it in each server. What is not here and keeps such a thing is
imported in each server, see :mod:`.survey`.
"""

from __future__ import annotations

import importlib
import os
import random
import runpy
import signal
import site
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def mend() -> None:
    """Set everything right that imported modules keep; to be called with the server's environment."""
    time.tzset()
    tempfile.tempdir = None
    random.seed()
    _user_site()
    for name, mending in MENDED.items():
        if name in sys.modules:
            mending(sys.modules[name])


def forget_handlers() -> None:
    """Have no handler of a signal that a library has set without Python knowing, as readline does for its windows."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8", "replace").splitlines())
    caught = int(status["SigCgt"], 16)
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if caught >> (number - 1) & 1 and handler in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(number, handler)


def user_site() -> str | None:
    """Return where the account's own packages are if Python would look there and they are there."""
    return site.USER_SITE if site.ENABLE_USER_SITE and Path(str(site.USER_SITE)).is_dir() else None


def _user_site() -> None:
    site.ENABLE_USER_SITE = "PYTHONNOUSERSITE" not in os.environ and _looks_for_user_site()
    site.USER_SITE = site.USER_BASE = None
    site.getusersitepackages()


def _looks_for_user_site() -> bool:
    if sys.prefix == sys.base_prefix:
        return True
    try:
        lines = Path(sys.prefix, "pyvenv.cfg").read_text("utf-8").lower().splitlines()
    except OSError:
        return True
    return "include-system-site-packages=true" in {line.replace(" ", "") for line in lines}


def _base(_module: Any) -> None:
    sysconfig.get_config_vars()["userbase"] = site.getuserbase()


def _anew(module: Any) -> None:
    # Functions that others hold find the new values: they look in the same namespace.
    importlib.reload(module)


def _environment(module: Any) -> None:
    module.BaseHandler.os_environ = module.read_environ()


def _session(module: Any) -> None:
    module.session_flags["secure"][0]["Session"]["key"] = module.new_id_bytes()
    default = os.environ.get("USER", "username")
    for kind in (module.Session, *module.Session.__subclasses__()):
        kind.username.default_value = default
        kind._static_immutable_initial_values["username"] = default  # noqa: SLF001 - traitlets has no other way


def _main_process(module: Any) -> None:
    module.current_process().authkey = os.urandom(32)
    module.ORIGINAL_DIR = str(Path.cwd())


def _directory(module: Any) -> None:
    module._IMPORT_CWD = str(Path.cwd())  # noqa: SLF001 - where it resolves names of files from


def _seed(module: Any) -> None:
    module.random.seed()


def _cache_directory(module: Any) -> None:
    # Not all of it: IPython has changed some of its settings when it was imported.
    module.cache_directory = runpy.run_path(str(module.__file__))["cache_directory"]


def _cache_path(module: Any) -> None:
    # Not reloaded: jedi holds the dictionary that is its cache.
    module._default_cache_path = module._get_default_cache_path()  # noqa: SLF001


def _process_id(module: Any) -> None:
    module._pid, module._pid_msg = os.getpid(), f"{os.getpid()}: "  # noqa: SLF001 - it begins lines of a log


def _nothing(_module: Any) -> None:
    """Leave it: it keeps nothing of what it asks for."""


#: What sets a module right. Each is the answer to something that its import reads.
MENDED: Mapping[str, Callable[[Any], None]] = {
    "sysconfig": _base,
    "zoneinfo._tzpath": _base,
    "send2trash.plat_other": _anew,
    "wsgiref.handlers": _environment,
    "jupyter_client.session": _session,
    "multiprocessing.process": _main_process,
    "rich": _directory,
    "psutil._pslinux": _nothing,
    "jedi.settings": _cache_directory,
    "parso.cache": _cache_path,
    "debugpy.common.log": _nothing,
    "_pydevd_bundle._debug_adapter.pydevd_schema_log": _process_id,
    "numpy": _seed,
}
