"""What the doctor asks a node about the environment of its servers."""

from __future__ import annotations

from jupyterhub_agentfarm.controller.launching import versions_command
from jupyterhub_agentfarm.isolation import Isolation
from jupyterhub_agentfarm.models import NodeSpec

NODE = NodeSpec("n1", "host", python="/venv/bin/python", server_python="/opt/bin/python3")


def test_the_node_itself_is_asked() -> None:
    """Without an image it is the Python on the node that servers start from."""
    assert versions_command(NODE, Isolation()) == ["/opt/bin/python3", "-m", "jupyterhub_agentfarm.server.versions"]


def test_the_image_is_asked_where_servers_start_from_one() -> None:
    """The same Python is asked in a container that pulls nothing, reaches nothing and is gone at the end."""
    command = versions_command(NODE, Isolation("{username}", sandbox="container", image="lab:1", engine="podman"))
    assert command[:2] == ["podman", "run"]
    assert {"--rm", "--pull=never", "--network=none"} <= set(command)
    assert command[command.index("lab:1") :] == ["lab:1", *versions_command(NODE, Isolation())]
