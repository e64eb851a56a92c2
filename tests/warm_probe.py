"""A configuration file of Jupyter Server that writes down what the server's own process is like, beside itself."""

import gc
import json
import locale
import multiprocessing
import os
import random
import secrets
import signal
import site
import ssl
import sys
import sysconfig
import tempfile
import threading
import time
import uuid
from pathlib import Path

import jupyter_client.session
import send2trash.plat_other

from jupyterhub_agentfarm import serving

main = sys.modules["__main__"]
found = {
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "path": sys.path,
    "prefix": [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.executable],
    "main": [main.__spec__ and main.__spec__.name, main.__name__, getattr(main, "__file__", "")],
    "environment": dict(os.environ),
    "cwd": str(Path.cwd()),
    "umask": os.umask(0o22),
    "signals": {number.name: str(signal.getsignal(number)).split(" at ")[0] for number in signal.Signals},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "site": [site.ENABLE_USER_SITE, site.USER_BASE or site.getuserbase(), site.getusersitepackages()],
    "userbase": sysconfig.get_config_var("userbase"),
    "temporary": tempfile.gettempdir(),
    "home": str(Path.home()),
    "locale": [locale.setlocale(locale.LC_ALL), sys.getfilesystemencoding(), sys.stdout.encoding, sys.stderr.errors],
    "buffering": [sys.stdout.line_buffering, sys.stderr.line_buffering, sys.stdin.closed],
    "zone": time.tzname,
    "trash": send2trash.plat_other.HOMETRASH,
    "session": jupyter_client.session.Session().username,
    "session's own": jupyter_client.session.Session.username.default_value,
    "collecting": gc.isenabled(),
    "threads": threading.active_count(),
    "multiprocessing": [multiprocessing.process.ORIGINAL_DIR, multiprocessing.get_start_method()],
    "ids": [os.getpid() == os.getsid(0) == os.getpgrp(), os.getuid(), os.getgid(), sorted(os.getgroups())],
    "hash": hash("agentfarm"),
    "flags": str(sys.flags),
    "drawn": [
        random.random(),  # noqa: S311 - it is looked at, not used
        uuid.uuid4().hex,
        secrets.token_hex(8),
        ssl.RAND_bytes(8).hex(),
        bytes(multiprocessing.current_process().authkey).hex(),
        jupyter_client.session.session_flags["secure"][0]["Session"]["key"].decode(),
        next(tempfile._get_candidate_names()),
    ],
}
os.umask(found["umask"])
Path("~/probe.json").expanduser().write_text(json.dumps(found))
if Path("~/fails-when-forked").expanduser().exists() and serving.forked:
    sys.exit("this server does not want to be forked")
