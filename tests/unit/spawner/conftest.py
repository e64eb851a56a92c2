"""A Hub without a proxy whose spawner talks to the controller's double."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from farm_double import FarmDouble, farm_double
from mock_hub import MemoryProxy


@pytest.fixture
async def farm() -> AsyncIterator[FarmDouble]:
    """Give the controller's double."""
    async with farm_double() as double:
        yield double


@pytest.fixture
async def make_hub(farm: FarmDouble, configured_mockhub_instance: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """Give a function that returns an initialized MockHub with a spawner class."""
    made = []

    async def make(spawner_class: Any, **sections: dict[str, Any]) -> Any:
        config: dict[str, dict[str, Any]] = {
            "JupyterHub": {
                "spawner_class": spawner_class,
                "proxy_class": MemoryProxy,
                "cookie_secret_file": str(tmp_path / "cookie_secret"),
                "cleanup_servers": False,
                "cleanup_proxy": False,
            },
            "AgentFarmSpawner": {"boot_timeout": 5, "poll_interval": 3600},
            "LeaseWatch": {"retry_max_seconds": 0.2, "patience_seconds": 2},
            "FarmClient": {"url": farm.url, "token": "secret"},
        }
        for name, options in sections.items():
            config[name] = config.get(name, {}) | options
        app = configured_mockhub_instance(config)
        await app.initialize()
        made.append(app)
        return app

    yield make
    for app in made:
        await _close(app)


async def _close(app: Any) -> None:
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
async def hub(make_hub: Any) -> Any:
    """Give an initialized MockHub with AgentFarmSpawner."""
    return await make_hub("jupyterhub_agentfarm.spawner.AgentFarmSpawner")


@pytest.fixture
def user(hub: Any) -> Any:
    """Give the Hub's user."""
    return hub.users["user"]
