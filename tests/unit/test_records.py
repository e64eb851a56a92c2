"""Records go to JSON and back, strictly."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyterhub_agentfarm.errors import InvalidField
from jupyterhub_agentfarm.models import (
    Candidate,
    Explanation,
    LaunchSpec,
    Lease,
    NodeSpec,
    PlacementRequest,
    ServerExit,
    UserOptions,
)
from jupyterhub_agentfarm.records import from_json, to_json

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
options = st.builds(
    UserOptions,
    node=st.none() | names,
    labels=st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    gpus=st.integers(0, 16),
    gpu_memory_bytes=st.integers(0, 2**50),
    gpu_model=st.text(max_size=20),
    priority=st.integers(-100, 100),
    restart=st.sampled_from(["never", "on-node-failure"]),
)
requests = st.builds(
    PlacementRequest,
    owner=st.text(min_size=1, max_size=10),
    server_name=st.text(max_size=10),
    options=options,
    cpus=st.floats(0, 64),
    memory_bytes=st.integers(0, 2**40),
    groups=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
explanations = st.builds(
    Explanation,
    decided_at=st.floats(0, 2e9),
    chosen=st.none() | names,
    candidates=st.lists(
        st.builds(Candidate, node=names, scores=st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=3)),
        max_size=3,
    ).map(tuple),
)
leases = st.builds(
    Lease,
    id=st.uuids().map(lambda u: u.hex),
    owner=st.text(min_size=1),
    server_name=st.text(),
    state=st.sampled_from(["waiting", "granted", "running", "stopping", "released"]),
    epoch=st.integers(0, 2**40),
    request=requests,
    created_at=st.floats(0, 2e9),
    gpus=st.lists(st.text(), max_size=3).map(tuple),
    why=st.none() | explanations,
)


@given(leases)
def test_a_record_survives_json(lease: Lease) -> None:
    """What one process writes, another reads back equal, nested records included."""
    assert from_json(Lease, json.loads(json.dumps(to_json(lease)))) == lease


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            {"gpu": 1},
            (
                "gpu must be one of avoid, cpus, gpu_memory_bytes, gpu_model, gpus, kernel, labels, memory_bytes, "
                "node, priority, restart, not 'gpu'"
            ),
        ),
        ({"gpus": "1"}, "gpus must be a whole number, not '1'"),
        ({"gpus": True}, "gpus must be a whole number, not True"),
        ({"gpus": 1.0}, "gpus must be a whole number, not 1.0"),
        ({"gpus": -1}, "gpus must be a whole number from 0 to 16, not -1"),
        ({"gpus": None}, "gpus must be a whole number, not None"),
        ({"labels": {"zone": 3}}, "labels.zone must be a string, not 3"),
        ({"labels": ["zone"]}, "labels must be a JSON object, not ['zone']"),
        ({"restart": "always"}, "restart must be one of 'never', 'on-node-failure', not 'always'"),
        ({"avoid": ["n1", "a/b"]}, "avoid[1] must be 1-63 lower-case letters, digits and inner hyphens, not 'a/b'"),
        ({"avoid": ["n"] * 17}, "avoid must be at most 16 names of nodes, not '17 names'"),
        ({"node": "No Such"}, "node must be 1-63 lower-case letters, digits and inner hyphens, not 'No Such'"),
        ([], "the request body must be a JSON object, not []"),
    ],
)
def test_bad_options_are_refused_with_a_sentence(data: object, sentence: str) -> None:
    """The message names the field, the form wanted and the value got."""
    with pytest.raises(InvalidField) as caught:
        from_json(UserOptions, data)

    assert caught.value.message == sentence


def test_a_missing_field_is_named() -> None:
    """A field without a default must be there."""
    with pytest.raises(InvalidField, match="owner must be given"):
        from_json(PlacementRequest, {"server_name": ""})


def test_nested_fields_are_named_with_their_path() -> None:
    """A fault deep inside says where it is."""
    with pytest.raises(InvalidField, match=r"options\.gpus must be a whole number"):
        from_json(PlacementRequest, {"owner": "ada", "server_name": "", "options": {"gpus": "x"}})


def test_whole_numbers_count_as_numbers() -> None:
    """JSON does not tell 1 from 1.0, so a float field takes both."""
    assert from_json(PlacementRequest, {"owner": "a", "server_name": "", "cpus": 2}).cpus == 2.0


def test_long_values_are_shortened_in_messages() -> None:
    """A megabyte of nonsense is not echoed back."""
    with pytest.raises(InvalidField) as caught:
        from_json(UserOptions, {"gpu_model": ["x" * 10**6]})

    assert len(caught.value.message) < 200


def test_a_launch_does_not_show_its_environment() -> None:
    """The environment holds the server's token: it must not reach a log by way of repr."""
    launch = LaunchSpec("1", 1, ("x",), {"JUPYTERHUB_API_TOKEN": "s3cret"}, (), "127.0.0.1", "/")

    assert "s3cret" not in repr(launch)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Node_1"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"host": ""}, "host"),
        ({"port": 0}, "port"),
        ({"simulated_gpus": 17}, "simulated_gpus"),
        ({"port_range": [5000]}, "port_range"),
        ({"port_range": [5000, 4000]}, "port_range"),
        ({"role": "laptop"}, "role"),
    ],
)
def test_a_node_that_cannot_be_is_refused(change: dict[str, object], field: str) -> None:
    """Each rule of a node's declaration names its field."""
    with pytest.raises(InvalidField) as caught:
        from_json(NodeSpec, {"name": "n1", "host": "10.0.0.11"} | change)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        (ServerExit("exited", 0, code=3), "the server exited with status 3"),
        (ServerExit("signal", 0, signal=9), "the server was killed by signal 9"),
        (ServerExit("oom", 0), "the server was killed because the node ran out of memory"),
        (ServerExit("stopped", 0), "the server was stopped"),
        (ServerExit("unknown", 0), "the server is gone; how it ended is not known"),
    ],
)
def test_an_end_is_told_in_words(ended: ServerExit, sentence: str) -> None:
    """Users read why their server ended."""
    assert ended.sentence() == sentence
