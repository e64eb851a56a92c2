"""The Hub's configuration under faults: the package's own jupyterhub_config.py, and what tests need around it.

- $FAULTS_SETTINGS is JSON, ``{"Inventory": {"down_after": 5}}``, and goes before it.
- The proxy is not the Hub's: it is started by the tests, as a site does that wants connections to outlive the Hub.
- The controller gets the environment of the named points (hooks/fault_points.py).
- Servers of users whose name begins with ``tiny`` are the stand-in (stand_in_server.py).
"""

# ruff: noqa: F821

import asyncio
import json
import os
import runpy
import sys
import time
from pathlib import Path

import jupyterhub

from jupyterhub_agentfarm.share import share_path

here = Path(os.environ["FAULTS_DIRECTORY"])
c = get_config()
for cls, options in json.loads(os.environ["FAULTS_SETTINGS"]).items():
    for name, value in options.items():
        c[cls][name] = value
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.auth_token = os.environ["CONFIGPROXY_AUTH_TOKEN"]


async def watch_loop(path):
    """Write down whenever the Hub's loop was late by more than 20 ms: the time and the lateness, in seconds."""
    while True:
        due = time.monotonic() + 0.01
        await asyncio.sleep(0.01)
        if (late := time.monotonic() - due) > 0.02:
            with path.open("a") as file:
                file.write(f"{time.time():.3f} {late:.4f}\n")


watching = []


def choose_command(spawner):
    """Give users named tiny… the stand-in; at the first start begin to watch the loop."""
    if not watching:
        path = Path(os.environ["FAULTS_POINTS"]) / "loop_lags"
        watching.append(asyncio.get_running_loop().create_task(watch_loop(path)))
    if spawner.user.name.startswith("tiny"):
        stand_in = str(here / "stand_in_server.py")
        spawner.cmd = ["{python}", "-I", "-S", stand_in, "jupyterhub_agentfarm.server", jupyterhub.__version__]


c.Spawner.pre_spawn_hook = choose_command
# Not load_subconfig: that gives the file a configuration of its own, in which `configure` would miss what stands above.
runpy.run_path(str(share_path("jupyterhub_config.py")), {"get_config": lambda: c})
for service in c.JupyterHub.services:
    if service["name"] != "agentfarm" and "command" in service:
        service["environment"]["AGENTFARM_TEST_HUB"] = os.environ["AGENTFARM_TEST_HUB"]
    elif "command" in service:
        passed = ("PYTHONPATH", "FAULTS_POINTS", "AGENTFARM_TEST_HUB")
        service["environment"] |= {name: os.environ[name] for name in passed}
        service["environment"]["FAULTS_CLOCK"] = f"{os.environ['FAULTS_POINTS']}/clock@controller"
sys.stderr.write("the Hub's configuration under faults was read\n")
