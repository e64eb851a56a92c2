"""Sizes and durations are parsed once."""

from __future__ import annotations

import pytest
from traitlets import TraitError
from traitlets.config import Config, Configurable

from jupyterhub_agentfarm.traitlets import ByteSize, Seconds, parse_bytes, parse_seconds


class Thing(Configurable):
    """A configurable with one option of each kind."""

    size = ByteSize("1K").tag(config=True)
    wait = Seconds("1.5m").tag(config=True)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("512", 512), ("1.5G", 3 * 2**29), ("80GiB", 80 * 2**30), ("2 mb", 2**21)]
)
def test_sizes(text: str, size: int) -> None:
    """Units are powers of 1024, as JupyterHub's are."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("500ms", 0.5), ("15m", 900), ("4h", 14400), ("1d", 86400)])
def test_durations(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("value", ["", "8 parsecs", "-1", -1, True, None, "1G1"])
def test_a_bad_size_names_the_option(value: object) -> None:
    """The error says which option, and what it takes."""
    with pytest.raises(TraitError, match=r"'size' trait of a Thing instance expected a size in bytes"):
        Thing(size=value)


@pytest.mark.parametrize("value", ["", "soon", "-1s", -0.1, True, None])
def test_a_bad_duration_names_the_option(value: object) -> None:
    """The error says which option, and what it takes."""
    with pytest.raises(TraitError, match=r"'wait' trait of a Thing instance expected a duration"):
        Thing(wait=value)


def test_config_and_defaults_take_strings() -> None:
    """A configuration file may write units."""
    thing = Thing(config=Config({"Thing": {"size": "2M"}}))

    assert (thing.size, thing.wait) == (2 * 2**20, 90.0)
