"""``agentfarm doctor``: whether people are kept from logging in under agents' names."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyterhub_agentfarm.cli.findings import Finding
from jupyterhub_agentfarm.cli.login_checks import check_logins
from jupyterhub_agentfarm.cli.site_checks import read_config
from jupyterhub_agentfarm.services import reserved

OWN_WAY = """
from jupyterhub.auth import DummyAuthenticator
class Header(DummyAuthenticator):
    async def get_authenticated_user(self, handler, data):
        return {'name': 'ada'}
c.JupyterHub.authenticator_class = Header
"""


async def found(folder: Path, before: str = "", after: str = "", services: tuple[str, ...] = ("agents",)) -> Finding:
    """Return the finding about a configuration with these lines before and after the call of `configure`."""
    path = folder / "jupyterhub_config.py"
    path.write_text(
        "from pathlib import Path\nfrom jupyterhub_agentfarm.configure import configure\n"
        f"here = Path({str(folder)!r})\n{before}\n"
        f"configure(c, services={services}, data_dir=here, runtime_dir=here / 'run')\n{after}\n"
    )
    settings, loaded = await read_config(path)
    assert loaded.level == "ok", loaded
    (finding,) = check_logins(settings)
    return finding


async def test_the_hook_that_configure_sets_is_in_force(tmp_path: Path) -> None:
    """The farm's hook, also after a site's own and for another authenticator, is fine; the names are counted."""
    finding = await found(tmp_path)
    assert (finding.level, finding.message) == ("ok", "nobody logs in as an agent; 0 names are kept from people")
    reserved.write(tmp_path / reserved.FILE_NAME, ["bot", "scout"])
    before = "c.JupyterHub.authenticator_class = 'dummy'\nc.DummyAuthenticator.post_auth_hook = lambda *a: a[2]"
    finding = await found(tmp_path, before)
    assert (finding.level, finding.message) == ("ok", "nobody logs in as an agent; 2 names are kept from people")


@pytest.mark.parametrize(
    ("before", "after", "level", "said"),
    [
        ("", "c.Authenticator.post_auth_hook = print", "fail",
         "people may log in under agents' names: c.Authenticator.post_auth_hook is not the farm's"),
        ("c.JupyterHub.authenticator_class = 'dummy'", "c.DummyAuthenticator.post_auth_hook = None", "fail",
         "people may log in under agents' names: c.DummyAuthenticator.post_auth_hook is not the farm's"),
        ("", "del c.Authenticator.post_auth_hook", "fail",
         "people may log in under agents' names: no post_auth_hook is set"),
        (OWN_WAY, "", "warn", "Header has a get_authenticated_user of its own, which may not call the farm's hook"),
        ("", "c.JupyterHub.authenticator_class = 'no.such.Class'", "fail", "the authenticator cannot be loaded: "),
        ("", "c.JupyterHub.services[0]['environment']['AGENTFARM_DATA_DIR'] = '/srv'", "fail",
         "the names of agents are read from "),
    ],
)  # fmt: skip
async def test_a_hook_that_is_left_out(tmp_path: Path, before: str, after: str, level: str, said: str) -> None:
    """Whatever leaves the hook out, or has it read other names than the agents service writes, is told with a mend."""
    finding = await found(tmp_path, before, after)
    assert finding.level == level, finding
    assert finding.message.startswith(said)
    assert finding.mend


async def test_names_that_cannot_be_read(tmp_path: Path) -> None:
    """A file of names that is none is a failure: the hook would let everybody in whose group says nothing."""
    (tmp_path / reserved.FILE_NAME).write_text("{")
    finding = await found(tmp_path)
    assert (finding.level, "cannot be read" in finding.message) == ("fail", True)


async def test_farms_without_agents_are_not_asked(tmp_path: Path) -> None:
    """Where there is no agents service there is nothing to check."""
    path = tmp_path / "jupyterhub_config.py"
    path.write_text("c.JupyterHub.services = [{'name': 'other'}]\n")
    assert check_logins((await read_config(path))[0]) == []
    path.write_text("c.JupyterHub.services.append({'name': 'agents'})\n")
    assert check_logins((await read_config(path))[0]) == []
