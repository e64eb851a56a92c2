"""What modules keep of the process that imports them: found, set right, or left to each server.

The survey of this environment is what is looked at here: with another release of Jupyter it finds other things, and
these tests say which.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jupyterhub_agentfarm.noded.warm.environments import Environment
from jupyterhub_agentfarm.noded.warm.mending import MENDED
from jupyterhub_agentfarm.noded.warm.recording import IDENTITY, Recording, kept_apart
from jupyterhub_agentfarm.noded.warm.surveying import surveyed

pytestmark = pytest.mark.timeout(900)

#: What each server imports by itself, because it keeps what differs between servers, or needs what does. A release of
#: Jupyter that adds one makes warm starts slower by its import; one that is in too much to be imported late is mended.
LATE = {
    "jupyterhub.services.auth",  # the prefix of cookies, keys and certificates
    "jupyterhub.singleuser",
    "jupyterhub.singleuser._decorator",
    "jupyterhub.singleuser._disable_user_config",
    "jupyterhub.singleuser.extension",
    "jupyterhub.singleuser.mixins",
    "jupyterhub_agentfarm.server.app",
    "jupyterlab.labapp",  # the user's settings and workspaces
}
#: What a module reads of its process, and is set right afterwards.
READ = {
    "HOME": {
        *("send2trash.plat_other", "sysconfig", "wsgiref.handlers", "zoneinfo._tzpath"),
        *("jedi.settings", "parso.cache"),
    },
    "USER": {"jupyter_client.session", "wsgiref.handlers"},
    "PATH": {"wsgiref.handlers", "debugpy.common.log"},
    "@account": {"send2trash.plat_other"},
    "@directory": {"multiprocessing.process", "rich"},
    "@process": {"psutil._pslinux", "_pydevd_bundle._debug_adapter.pydevd_schema_log"},
    "@random": {"jupyter_client.session", "multiprocessing.process"},
    "*": {"wsgiref.handlers"},
}
SENTINEL = "/quokka-sentinel"
#: Imports what a zygote does, in a process whose variables are all sentinels; makes it a server's; looks for sentinels.
LOOKS = """
import gc, json, os, sys, types
from jupyterhub_agentfarm.noded.warm.zygote import check_fit, preload
from jupyterhub_agentfarm.noded.warm.mending import mend

def text(value):
    return value if isinstance(value, str) else value.decode("latin1") if isinstance(value, bytes) else ""

def looked():
    order = json.load(sys.stdin)
    sentinel = order.pop("sentinel")
    sys.modules.update(dict.fromkeys(order["absent"]))
    preload(order["modules"], set(order["late"]), order["for_kernels"])
    check_fit()
    os.environ.clear()
    os.environ.update({"HOME": "/home/ada", "USER": "ada", "PATH": "/bin"})
    os.chdir("/")
    mend()
    found = set()
    for name, module in list(sys.modules.items()):
        for key, value in list(vars(module).items()) if module is not None else ():
            if sentinel in text(value):
                found.add(f"{name}.{key}")
    for each in gc.get_objects():
        values = list(each.values()) if type(each) is dict else list(each) if type(each) in (list, tuple, set) else ()
        for value in values:
            if sentinel in text(value):
                found.add(f"{type(each).__name__}: {text(value)[:200]}")
    return sorted(found)

print(json.dumps(looked()))
"""


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What a server of this environment imports."""
    folder: Path = tmp_path_factory.mktemp("surveys")
    environment = Environment(sys.executable, (("LANG", "C.UTF-8"),))
    return asyncio.run(surveyed(environment, (), folder))


def test_each_server_imports_no_more_than_is_known(survey: Mapping[str, Any]) -> None:
    """A release that keeps something new at import is seen here, before anybody's server has it from somebody else."""
    assert set(survey["late"]) == LATE


def test_what_is_kept_is_known_and_set_right(survey: Mapping[str, Any]) -> None:
    """Every module that reads what differs between servers is imported late, or has its mending."""
    found = {name: set(survey["reads"].get(name, ())) - LATE for name in (*READ, *IDENTITY)}
    assert all(modules <= READ[name] <= set(MENDED) for name, modules in found.items()), found


def test_nothing_of_the_zygote_is_left_in_a_server(survey: Mapping[str, Any], tmp_path: Path) -> None:
    """No module, dictionary or list holds the home, the directory or the path that the zygote had (leaks 1 and 2)."""
    folder = tmp_path / SENTINEL.strip("/")
    folder.mkdir()
    names = {"HOME": f"{SENTINEL}/home", "PATH": f"{SENTINEL}/bin", "USER": "quokka-sentinel", "LANG": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOOKS],
        input=json.dumps(
            {key: survey[key] for key in ("modules", "for_kernels", "late", "absent")}
            | {"sentinel": SENTINEL.strip("/")}
        ),
        env=names,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_a_recording_finds_who_reads_and_who_depends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading through functions of others counts for the module that is imported, and so does all that needs it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("QUOKKA", "a")
    sources = {
        "qk_reads": "import os\nVALUE = os.path.expandvars('$QUOKKA') + os.environ.get('QUOKKA_TWO', '')\n",
        "qk_function": "import os\ndef later(): return os.environ['QUOKKA']\n",
        "qk_needs": "from qk_reads import VALUE\n",
        "qk_needs_that": "import qk_needs\nimport qk_function\nqk_function.later()\n",
        "qk_all": "import os\nCOPY = dict(os.environ)\nPID = os.getpid()\n",
        "qk_bytes": "import os\nVALUE = os.environb.get(b'QUOKKA')\n",
        "qk_other": "import qk_function\n",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    with Recording(identity=True) as recording:
        for name in sources:
            __import__(name)
        modules = list(sys.modules)
    assert {name for name in recording.reads["QUOKKA"] if name.startswith("qk")} == {
        "qk_reads",
        "qk_needs_that",
        "qk_all",
        "qk_bytes",
    }
    assert "qk_reads" in recording.reads["QUOKKA_TWO"]
    assert "qk_all" in recording.reads["*"]
    assert "qk_all" in recording.reads["@process"]
    apart = kept_apart({"qk_reads"}, recording.imports, modules)
    assert apart == {"qk_reads", "qk_needs", "qk_needs_that"}
    assert type(os.environ).__name__ == "_Environ"
    for name in sources:
        del sys.modules[name]
