"""A Hub without a proxy whose spawner talks to the controller's double."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from farm_double import FarmDouble, farm_double


@pytest.fixture
async def farm() -> AsyncIterator[FarmDouble]:
    """Give the controller's double."""
    async with farm_double() as double:
        yield double


@pytest.fixture
async def hub(farm: FarmDouble, configured_mockhub_instance: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """Give an initialized MockHub with AgentFarmSpawner."""
    config = {
        "JupyterHub": {
            "spawner_class": "jupyterhub_agentfarm.spawner.AgentFarmSpawner",
            "cookie_secret_file": str(tmp_path / "cookie_secret"),
            "cleanup_servers": False,
            "cleanup_proxy": False,
        },
        "AgentFarmSpawner": {"boot_timeout": 5, "poll_interval": 3600},
        "LeaseWatch": {"retry_max_seconds": 0.2, "patience_seconds": 2},
        "FarmClient": {"url": farm.url, "token": "secret"},
    }
    app = configured_mockhub_instance(config)
    await app.initialize()
    yield app
    watch = app.users.settings.get("agentfarm_watch")
    if watch is not None:
        await watch.aclose()
    for user in app.users.values():
        for spawner in user.spawners.values():
            spawner.stop_polling()
    app.log.handlers = []
    await app.shutdown_cancel_tasks()
    app.db.close()
    app.db.get_bind().dispose()
    app.db_file.close()
    type(app).clear_instance()


@pytest.fixture
def user(hub: Any) -> Any:
    """Give the Hub's user."""
    return hub.users["user"]
