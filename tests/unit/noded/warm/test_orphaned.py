"""noded reaps what it has adopted, and nothing that somebody else waits for."""

from __future__ import annotations

import json
import subprocess
import sys

#: Leaves a grandchild to this process, starts a child that is waited for late, and tells what becomes of both.
ADOPTS = """
import asyncio, json, os, subprocess, sys
from jupyterhub_agentfarm.noded import procfs
from jupyterhub_agentfarm.noded.warm.orphaned import reap_for_ever

async def adopted():
    reaping = asyncio.create_task(reap_for_ever(patience=0.2))
    await asyncio.sleep(0)
    leaves = "import os, time; pid = os.fork(); print(pid, flush=True) if pid else time.sleep(0.1)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", leaves, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    orphan = int(said.split()[0])
    parent = procfs.read(orphan)
    async with asyncio.timeout(20):
        while procfs.read(orphan) is not None:
            await asyncio.sleep(0.05)
    ours = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    status = await asyncio.to_thread(ours.wait)
    reaping.cancel()
    return [parent is None or parent.ppid in (os.getpid(), process.pid), status]

print(json.dumps(asyncio.run(adopted())))
"""


def test_an_orphan_is_adopted_and_reaped() -> None:
    """A process whose parent ended leaves no zombie; a child's exit status reaches who waits for it."""
    done = subprocess.run([sys.executable, "-c", ADOPTS], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, 3]
