"""Who sees an agent, who acts for it, and who of them is no agent any more."""

from __future__ import annotations

import pytest
from agents_site import make_agent

from jupyterhub_agentfarm.agents.access import MANAGE, READ, acts_for, in_project, sees_agent
from jupyterhub_agentfarm.services.handlers import Principal

SCOUT = make_agent("scout", owner="ada", projects=("weather",))


def person(name: str, *scopes: str, kind: str = "user", groups: tuple[str, ...] = ()) -> Principal:
    """Return who asks."""
    return Principal(name, kind, frozenset(scopes), groups)


@pytest.mark.parametrize(
    ("who", "sees", "acts"),
    [
        (person("scout"), True, True),
        (person("ada"), True, True),
        (person("bob"), False, False),
        (person("bob", groups=("weather",)), False, False),
        (person("bob", READ), True, False),
        (person("bob", MANAGE), True, True),
        (person("local", kind="local"), True, True),
        # a service that is called like the agent, or like its owner, is neither
        (person("scout", kind="service"), False, False),
        (person("ada", kind="service"), False, False),
    ],
)
def test_who_sees_an_agent_and_acts_for_it(who: Principal, sees: bool, acts: bool) -> None:
    """Itself, its owner, and those with the scopes; a name is not enough."""
    assert (sees_agent(who, SCOUT), acts_for(who, SCOUT)) == (sees, acts)


def test_members_of_a_project() -> None:
    """People are members by their Hub groups, agents also by their record; nobody is a member of no project."""
    assert in_project(person("bob", groups=("weather",)), "weather")
    assert in_project(person("scout"), "weather", SCOUT)
    assert not in_project(person("scout"), "genomes", SCOUT)
    assert not in_project(person("bob"), None)
    assert not in_project(person("bob", kind="service", groups=("weather",)), "weather")
