"""One validation for the form and the REST API."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.models import UserOptions
from jupyterhub_agentfarm.spawner.options import Limits, check_options, form_to_json, placement_request
from jupyterhub_agentfarm.spawner.spawner import AgentFarmSpawner

LIMITS = Limits(max_gpus=8, max_priority=0)
WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=10)


def test_nothing_asked_for_is_valid() -> None:
    """JupyterHub starts a server again with {} when none was given."""
    assert check_options({}, LIMITS) == UserOptions()


@given(
    gpus=st.integers(0, 8),
    gib=st.integers(0, 2000),
    model=WORD,
    node=WORD,
    labels=st.dictionaries(WORD, WORD, max_size=4),
    cpus=st.floats(0, 1000),
)
def test_form_and_rest_say_the_same(
    gpus: int, gib: int, model: str, node: str, labels: dict[str, str], cpus: float
) -> None:
    """A form's fields are the options that the same values make by REST."""
    form = {
        "gpus": [str(gpus)],
        "gpu_memory_gib": [str(gib)],
        "gpu_model": [model],
        "node": [node],
        "labels": [f"{key}={value}" for key, value in labels.items()],
        "kernel": [model],
        "cpus": [repr(cpus)],
        "memory_gib": [str(gib)],
    }
    expected = UserOptions(
        node=node,
        labels=labels,
        gpus=gpus,
        gpu_memory_bytes=gib * 2**30,
        gpu_model=model,
        kernel=model,
        cpus=cpus,
        memory_bytes=gib * 2**30,
    )
    assert check_options(form_to_json(form), LIMITS) == expected


def test_empty_fields_are_left_out() -> None:
    """A form that was sent as it came asks for nothing."""
    assert form_to_json({"gpus": ["0"], "node": [""], "gpu_memory_gib": [" "], "_xsrf": ["x"]}) == {"gpus": 0}


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"gpus": ["two"]}, "gpus"),
        ({"gpu_memory_gib": ["inf"]}, "gpu_memory_gib"),
        ({"gpu_memory_gib": ["nan"]}, "gpu_memory_gib"),
        ({"labels": ["disk"]}, "labels"),
        ({"cpus": ["many"]}, "cpus"),
        ({"memory_gib": ["inf"]}, "memory_gib"),
        ({"memory_bytes": ["1.5"]}, "memory_bytes"),
        ({"color": ["red"]}, "color"),
    ],
)
def test_a_bad_field_is_named(form: dict[str, list[str]], field: str) -> None:
    """The form's error names the field."""
    with pytest.raises(InvalidField) as caught:
        form_to_json(form)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"cpus": 4.5}, "cpus"),
        ({"cpus": float("nan")}, "cpus"),
        ({"cpus": -1}, "cpus"),
        ({"memory_bytes": 2**30 + 1}, "memory_bytes"),
        ({"memory_bytes": -1}, "memory_bytes"),
        ({"kernel": "python3; rm"}, "kernel"),
        ({"kernel": "a" * 101}, "kernel"),
    ],
)
def test_what_is_above_the_site_or_no_name_is_refused(options: dict[str, object], field: str) -> None:
    """Cores and memory have the site's limits; a kernel's name is one that Jupyter takes."""
    limits = Limits(max_gpus=8, max_priority=0, max_cpus=4, max_memory_bytes=2**30)
    assert check_options({"cpus": 4, "memory_bytes": 2**30, "kernel": "ir"}, limits).kernel == "ir"
    with pytest.raises(InvalidField) as caught:
        check_options(options, limits)
    assert caught.value.field == field


def asking(options: dict[str, Any], **site: Any) -> Any:
    """Return what has the attributes of a spawner that a request is made of."""
    guarantees = {"cpu_guarantee": None, "mem_guarantee": None}
    user = SimpleNamespace(name="ada", groups=[])
    return SimpleNamespace(user=user, name="", user_options=options, limits=lambda: LIMITS, **guarantees | site)


def test_the_larger_of_option_and_guarantee_counts() -> None:
    """What the site guarantees every server, and what the user asks for: a node must have the larger free."""
    asked = placement_request(asking({"cpus": 2, "memory_bytes": 5}, cpu_guarantee=1.5, mem_guarantee=7))
    assert (asked.cpus, asked.memory_bytes) == (2, 7)
    assert (placement_request(asking({})).cpus, placement_request(asking({})).memory_bytes) == (0, 0)


def test_the_smaller_of_limit_and_most_counts() -> None:
    """Nobody can ask to have more free than the server may use; 0 and None are no limit."""
    spawner = AgentFarmSpawner(max_cpus=4, cpu_limit=2, max_memory="1G")
    assert (spawner.limits().max_cpus, spawner.limits().max_memory_bytes) == (2, 2**30)
    assert AgentFarmSpawner().limits() == LIMITS


def test_labels_can_be_limited() -> None:
    """With allowed labels, others and other values are refused."""
    limits = Limits(max_gpus=8, max_priority=0, labels={"disk": ["nvme"]})
    assert check_options({"labels": {"disk": "nvme"}}, limits).labels == {"disk": "nvme"}
    for labels in ({"disk": "hdd"}, {"room": "b"}):
        with pytest.raises(InvalidField):
            check_options({"labels": labels}, limits)


@pytest.mark.parametrize("data", [{"restart": "on-node-failure"}, form_to_json({"restart": ["on-node-failure"]})])
def test_a_restart_after_the_nodes_failure_can_be_asked_for(data: dict[str, object]) -> None:
    """REST and form take the same word; another one is refused."""
    assert check_options(data, LIMITS).restart == "on-node-failure"
    with pytest.raises(InvalidField, match="restart"):
        check_options({"restart": "always"}, LIMITS)
