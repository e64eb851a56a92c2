"""The notebook that measures the disk and the way to the Hub, with a real Hub's API and files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mock_hub import HubApi, MemoryProxy, serving
from nbclient.exceptions import CellExecutionError

from .conftest import Execute, check_result, pictures_of, result_of, text_of

pytestmark = pytest.mark.timeout(150)

NAME = "disk_and_network.ipynb"
SMALL = {"scale": 0.05}
DAMAGE = """
intact = write
def write(path, count):
    checksum = intact(path, count)
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"something else")
    return checksum
"""
ALTERED = """
import itertools
counter, honest = itertools.count(), get
def get(connection, path):
    status, body, seconds = honest(connection, path)
    return status, body + str(next(counter)).encode(), seconds
"""


def left_in(folder: Path) -> list[Path]:
    """Return what the notebook has left in a folder."""
    return list(folder.glob("disk-and-network-*"))


@pytest.fixture
async def hub(configured_mockhub_instance: Any, tmp_path: Path) -> AsyncIterator[HubApi]:
    """Give a real Hub's API."""
    config = {"JupyterHub": {"proxy_class": MemoryProxy, "cookie_secret_file": str(tmp_path / "cookie_secret")}}
    app = configured_mockhub_instance(config)
    await app.initialize()
    async with serving(app) as api:
        yield api
    app.log.handlers = []
    await app.shutdown_cancel_tasks()
    app.db.close()


async def test_disk_and_hub_are_measured(execute: Execute, hub: HubApi, tmp_path: Path) -> None:
    """The record has the disk's and the network's figures, the same bytes for the same seed, and no file is left."""
    results = []
    for _ in range(2):
        notebook = await execute(NAME, SMALL, JUPYTERHUB_API_URL=hub.url)
        results.append(result_of(notebook)[0])
        check_result(results[-1])
        assert pictures_of(notebook)
    assert results[0]["device"] == "disk and network"
    assert results[0]["file_crc32"] == results[1]["file_crc32"]
    for name in ("read_bytes_per_second", "hub_download_bytes_per_second", "hub_round_trip_p50_seconds"):
        assert results[0][name] > 0
    assert results[0]["safe_write_p50_seconds"] <= results[0]["safe_write_p99_seconds"]
    assert not left_in(tmp_path)


async def test_without_a_hub_the_disk_is_measured(execute: Execute) -> None:
    """Outside of a Hub there are no network figures, not even of 0, and it says why."""
    notebook = await execute(NAME, SMALL, JUPYTERHUB_API_URL="")
    result, _ = result_of(notebook)
    check_result(result)
    assert "not a server of a Hub" in text_of(notebook)
    assert not [name for name in result if name.startswith("hub_")]


async def test_a_damaged_file_fails(execute: Execute, tmp_path: Path) -> None:
    """What is read must be what was written; the file is removed in this case too."""
    with pytest.raises(CellExecutionError, match="what was read is not what was written"):
        await execute(NAME, SMALL, defects={"disk": DAMAGE}, JUPYTERHUB_API_URL="")
    assert not left_in(tmp_path)


async def test_downloads_that_differ_fail(execute: Execute, hub: HubApi) -> None:
    """Two answers to one question that are not alike are a fault of the way."""
    with pytest.raises(CellExecutionError, match=r"two downloads of .* differ"):
        await execute(NAME, SMALL, defects={"network": ALTERED}, JUPYTERHUB_API_URL=hub.url)
