"""``agentfarm doctor``: what is wrong with this farm, and how to mend it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from traitlets import Unicode

from ..errors import AgentFarmError, FarmUnavailable
from ..records import to_json
from ..server.versions import installed
from ..terminal.output import clean
from . import site_checks
from .command import Command
from .environment_checks import check_environment
from .findings import Finding, fail, ok
from .login_checks import check_logins
from .node_checks import check_node
from .project_checks import check_projects
from .stray_checks import check_strays

T = TypeVar("T")

_SERVICES = ("agentfarm", "benchmark", "agents")
#: Nodes that are asked for their server environment at once.
_ASKED_AT_ONCE = 16


class SickFarm(AgentFarmError):
    """The doctor found something that must be mended."""

    reason = "doctor"


class Doctor(Command):
    """Check everything."""

    command = "agentfarm doctor"
    description = "Check configuration, services and nodes; every finding says how to mend it."
    config_file = Unicode("jupyterhub_config.py", help="The Hub's configuration file.").tag(config=True)
    aliases = {**Command.aliases, "f": "Doctor.config_file", "config": "Doctor.config_file"}

    async def run(self) -> None:
        """Make every check and write the findings.

        Raises
        ------
        SickFarm
            A check failed.
        """
        path = Path.cwd() / self.config_file
        settings, finding = await site_checks.read_config(path)
        findings = [finding]
        if "runtime_dir" not in self.config.Command and "ServiceApp.runtime_dir" in settings:
            self.runtime_dir = str(settings["ServiceApp.runtime_dir"])
        runtime = Path(self.runtime_dir)
        findings += site_checks.check_runtime_dir(runtime)
        findings += await asyncio.to_thread(self._ports, runtime)
        if settings:
            findings += check_logins(settings)
            findings.append(await site_checks.check_proxy(settings))
            findings += await site_checks.check_databases(settings, path.parent)
        findings += await self._farm_findings()
        self._write(findings)
        failed = sum(finding.level == "fail" for finding in findings)
        if failed:
            raise SickFarm(f"{failed} of {len(findings)} checks failed")

    @staticmethod
    def _ports(runtime: Path) -> list[Finding]:
        """Return whether the services listen where they said."""
        return [site_checks.check_announced(runtime, name) for name in _SERVICES if (runtime / f"{name}.json").exists()]

    async def _farm_findings(self) -> list[Finding]:
        """Return the findings about the controller and its nodes."""
        try:
            async with self.farm() as farm:
                nodes = await farm.nodes()
                environments = await _asked(nodes, farm.environment)
                strays = await _asked(nodes, farm.strays)
                projects = await _asked(nodes, farm.projects)
        except FarmUnavailable as exc:
            return [
                fail("controller", exc.message, "start the Hub, and see its log for lines of the agentfarm service")
            ]
        except AgentFarmError as exc:
            return [fail("controller", exc.message, "see that the token is valid and has custom:agentfarm:nodes:read")]
        if not nodes:
            return [ok("controller", "answers"), ok("nodes", "there are none yet: `agentfarm nodes add` adds one")]
        now = time.time()
        findings, hub_version = [ok("controller", f"answers; {len(nodes)} nodes")], installed("jupyterhub")
        for node in nodes:
            findings += check_node(node, now)
            if node["name"] in environments:
                findings.append(check_environment(node, environments[node["name"]], hub_version))
                findings += check_strays(node["name"], strays[node["name"]])
                findings += check_projects(node, projects[node["name"]])
        return findings

    def _write(self, findings: list[Finding]) -> None:
        """Write the findings, each with its mend below it."""
        if self.json:
            self.output.json({"findings": to_json(findings)})
            return
        for finding in findings:
            self.output.line(clean(f"{finding.level:<4}  {finding.check}: {finding.message}"))
            if finding.mend:
                self.output.line(clean(f"      -> {finding.mend}"))


async def _asked(
    nodes: list[dict[str, Any]], question: Callable[[str], Awaitable[T]]
) -> Mapping[str, T | AgentFarmError]:
    """Return each ready node's answer to a question, or why there is none."""
    slots = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def ask(name: str) -> T | AgentFarmError:
        async with slots:
            try:
                return await question(name)
            except AgentFarmError as exc:
                return exc

    names = [str(node["name"]) for node in nodes if node["state"] == "ready"]
    return dict(zip(names, await asyncio.gather(*map(ask, names)), strict=True))
