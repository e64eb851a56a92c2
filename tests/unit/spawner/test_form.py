"""The options page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from farm_double import FarmDouble

from jupyterhub_agentfarm.spawner.form import view

GIB = 2**30


def gpu(name: str = "NVIDIA A100", leased: bool = False, **more: Any) -> dict[str, Any]:
    """Return a GPU as the controller lists it."""
    base = {"name": name, "memory_total_bytes": 80 * GIB, "leased": leased, "foreign_pids": [], "simulated": False}
    return base | more


def kernel(name: str, display_name: str = "") -> dict[str, str]:
    """Return a kernel as the controller lists it."""
    return {"name": name, "language": "", "display_name": display_name}


def node(name: str, *gpus: dict[str, Any], eligible: bool = True, kernels: Any = None, **labels: str) -> dict[str, Any]:
    """Return a node as the controller lists it: 8 cores, 16 GiB."""
    return {
        "name": name,
        "status": "ready" if eligible else "draining",
        "eligible": eligible,
        "spec": {"labels": labels},
        "telemetry": {"gpus": list(gpus), "cpus": 8, "memory_total_bytes": 16 * GIB},
        "kernels": kernels,
    }


def test_free_is_what_a_request_could_get() -> None:
    """GPUs that are leased, used past the farm or on a draining node are not free."""
    farm = view(
        [node("b", gpu(), gpu(leased=True)), node("a", gpu(foreign_pids=[1])), node("c", gpu(), eligible=False)], 2
    )
    assert [(model.free, model.total) for model in farm.models] == [(1, 3)]
    assert (farm.ready, farm.waiting, [n["name"] for n in farm.nodes]) == (2, 2, ["a", "b", "c"])


def test_only_allowed_labels_are_offered() -> None:
    """Labels that the site does not let users ask for are not on the page."""
    nodes = [node("a", disk="nvme", room="b"), node("c", disk="hdd")]
    assert view(nodes, 0).labels == ("disk=hdd", "disk=nvme", "room=b")
    assert view(nodes, 0, {"disk": ["nvme"]}).labels == ("disk=nvme",)


async def test_the_page_shows_the_farm_and_escapes_it(farm: FarmDouble, user: Any) -> None:
    """Names that a node made up cannot become markup."""
    farm.nodes = [node("n1", gpu("<script>x</script>", simulated=True), disk='"><b>'), node("n2", eligible=False)]
    page = await user.spawner.get_options_form()
    assert "1 node ready" in page
    assert "1 of 1 GPU free" in page
    assert "nobody waiting" in page
    assert "simulated" in page
    assert "n2 (draining)" in page
    assert "<script>" not in page
    assert '"><b>' not in page


def test_kernels_of_nodes_that_take_servers_are_offered() -> None:
    """Each kernel once, with the number of nodes; one whose node is draining, or has not told, is not there."""
    python = kernel("python3", "Python 3 (ipykernel)")
    nodes = [
        node("a", kernels=[python, kernel("ir")]),
        node("b", kernels=[python]),
        node("c", kernels=[kernel("julia-1.10")], eligible=False),
        node("d"),
    ]
    found = [(each.name, each.shown, each.nodes) for each in view(nodes, 0).kernels]
    assert found == [("ir", "ir", 1), ("python3", "Python 3 (ipykernel)", 2)]


async def test_the_page_asks_for_kernel_cores_and_memory(farm: FarmDouble, user: Any) -> None:
    """The kernels are the farm's, escaped; the most that can be asked for is the largest node's or the site's."""
    farm.nodes = [node("n1", kernels=[kernel("ir", "R <4>")])]
    page = await user.spawner.get_options_form()
    assert '<option value="ir">R &lt;4&gt; (on 1 node)</option>' in page
    assert re.search(r'name="cpus"[^>]*max="8"', page)
    assert re.search(r'name="memory_gib"[^>]*max="16"', page)
    user.spawner.max_cpus, user.spawner.mem_limit = 2.5, "1536M"
    page = await user.spawner.get_options_form()
    assert re.search(r'name="cpus"[^>]*max="2.5"', page)
    assert re.search(r'name="memory_gib"[^>]*max="1.5"', page)


async def test_the_page_works_without_the_controller(farm: FarmDouble, user: Any) -> None:
    """Without an answer the page says so and can still be sent."""
    farm.down = True
    page = await user.spawner.get_options_form()
    assert "does not answer" in page
    for name in ("gpus", "kernel", "cpus", "memory_gib"):
        assert f'name="{name}"' in page


@pytest.mark.parametrize(("nodes", "gpus"), [([node("n1", gpu())], "1"), ([node("n1")], "0"), ([], "0")])
async def test_who_only_presses_start_gets_a_gpu(
    farm: FarmDouble, user: Any, nodes: list[dict[str, Any]], gpus: str
) -> None:
    """The form asks for one GPU where the farm has any, and for none where asking would be refused."""
    farm.nodes = nodes
    page = await user.spawner.get_options_form()

    assert re.search(r'name="gpus"[^>]*\bvalue="(\d+)"', page, re.DOTALL)[1] == gpus  # type: ignore[index]
