"""Time between moments that do not belong to the same life of a process."""

from __future__ import annotations

from jupyterhub_agentfarm.benchmark.clock import moment, seconds_between, seconds_since
from jupyterhub_agentfarm.benchmark.models import Moment


def test_a_clock_that_is_set_changes_nothing() -> None:
    """Within one start of the machine the wall clock does not count."""
    assert seconds_between(Moment(1000.0, "b", 50.0), Moment(10.0, "b", 57.5)) == 7.5


def test_over_a_restart_of_the_machine() -> None:
    """There is only the wall clock then, and time does not run backwards."""
    assert seconds_between(Moment(1000.0, "b", 5000.0), Moment(1010.0, "c", 3.0)) == 10
    assert seconds_between(Moment(1000.0, "", 5000.0), Moment(1010.0, "", 3.0)) == 10
    assert seconds_between(Moment(1000.0, "b", 5000.0), Moment(900.0, "c", 3.0)) == 0


def test_now() -> None:
    """Linux says which start of the machine this is."""
    now = moment()
    assert now.boot_id
    assert 0 <= seconds_since(now) < 60
