"""What a failed start tells, before the Hub has its hands on it."""

from __future__ import annotations

from jupyterhub_agentfarm.errors import ServerDied
from jupyterhub_agentfarm.spawner.failure import explain, start_failure


def test_a_failure_has_a_fixed_reason_a_status_and_both_messages() -> None:
    """Every version of JupyterHub is given the reason, the status and the message, as text and escaped."""
    error = start_failure("Nothing is <free>", "queue_timeout", 503)
    assert (error.reason, error.status_code) == ("queue_timeout", 503)
    assert error.jupyterhub_message == "Nothing is <free>"
    assert error.jupyterhub_html_message == "Nothing is &lt;free&gt;"


def test_an_error_of_the_farm_keeps_reason_and_log() -> None:
    """The reason of an error of the farm and the log that came with it reach the user."""
    error = explain(ServerDied("The server ended", "<b>last line</b>"))
    assert error.reason == "server_died"
    assert "&lt;b&gt;last line&lt;/b&gt;" in error.jupyterhub_html_message
