"""A real Prometheus as a process, with a configuration of the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ports import free_ports


@asynccontextmanager
async def prometheus_process(config: Mapping[str, Any], folder: Path, port: int | None = None) -> AsyncIterator[int]:
    """Run one that keeps its data in `folder`; give its port, a free one unless it is given."""
    port = port or free_ports(1)[0]
    await asyncio.to_thread((folder / "prometheus.yml").write_text, json.dumps(config))
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.terminate()
        async with asyncio.timeout(20):
            await process.wait()
