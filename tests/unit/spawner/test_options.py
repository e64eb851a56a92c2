"""One validation for the form and the REST API."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.models import UserOptions
from jupyterhub_agentfarm.spawner.options import Limits, check_options, form_to_json

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
)
def test_form_and_rest_say_the_same(gpus: int, gib: int, model: str, node: str, labels: dict[str, str]) -> None:
    """A form's fields are the options that the same values make by REST."""
    form = {
        "gpus": [str(gpus)],
        "gpu_memory_gib": [str(gib)],
        "gpu_model": [model],
        "node": [node],
        "labels": [f"{key}={value}" for key, value in labels.items()],
    }
    expected = UserOptions(node=node, labels=labels, gpus=gpus, gpu_memory_bytes=gib * 2**30, gpu_model=model)
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
        ({"color": ["red"]}, "color"),
    ],
)
def test_a_bad_field_is_named(form: dict[str, list[str]], field: str) -> None:
    """The form's error names the field."""
    with pytest.raises(InvalidField) as caught:
        form_to_json(form)
    assert caught.value.field == field


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
