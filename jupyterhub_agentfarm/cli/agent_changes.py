"""``agentfarm agents register | change | token | suspend | resume | retire``: what an admin decides about an agent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traitlets import Dict, Enum, Float, Integer, List, Unicode

from ..agents.models import AgentLimits, AgentRequest
from ..agents.registry.requests import AgentChange
from ..errors import ConfigError
from ..services.local import write_private
from ..terminal.quantities import duration
from ..traitlets import Seconds
from .agents import AgentsCommand
from .command import Command

_TOKEN_FILE = "File (0600) to write the token to. Default: stdout, where it is seen this once."  # noqa: S105


class _OneAgent(AgentsCommand):
    """A command about one agent that ends with a sentence, or with the agent as JSON."""

    positionals = ("NAME",)

    @property
    def agent(self) -> str:
        """Name of the agent."""
        return str(self.extra_args[0])

    def finish(self, view: Mapping[str, Any], sentence: str) -> None:
        """Write the result; what is left to do is said on stderr."""
        if self.json:
            self.output.json(view)
        else:
            self.output.line(sentence)
        if view["left_to_do"]:
            self.output.note(f"Not all is done yet, it goes on by itself: {view['left_to_do']}")


class Describing(_OneAgent):
    """A command with the options that say what an agent is."""

    owner = Unicode("", help="Hub user who answers for the agent and may open its servers.").tag(config=True)
    about = Unicode("", help="What the agent is for, for people.").tag(config=True)
    servers = Integer(None, allow_none=True, help="Most servers at a time.").tag(config=True)
    gpus = Integer(None, allow_none=True, help="Most GPUs at a time.").tag(config=True)
    gpu_hours = Float(None, allow_none=True, help="Most GPU-hours in the farm's window.").tag(config=True)
    label = Dict(
        per_key_traits={}, value_trait=Unicode(), help="A label that its nodes must have, as key=value; repeatable."
    ).tag(config=True)
    kernel = List(Unicode(), help="A kernel that it may use; repeatable. Default: any.").tag(config=True)
    expires = Seconds(None, allow_none=True, help="It is retired after this long, as in 90d. Default: never.").tag(
        config=True
    )

    aliases = {
        **Command.aliases,
        "owner": "Describing.owner",
        "description": "Describing.about",
        "servers": "Describing.servers",
        "gpus": "Describing.gpus",
        "gpu-hours": "Describing.gpu_hours",
        "label": "Describing.label",
        "kernel": "Describing.kernel",
        "expires": "Describing.expires",
    }

    def limits(self, otherwise: AgentLimits) -> AgentLimits:
        """Return the limits that were named, the others as they are."""
        return AgentLimits(
            otherwise.servers if self.servers is None else self.servers,
            otherwise.gpus if self.gpus is None else self.gpus,
            otherwise.gpu_hours if self.gpu_hours is None else self.gpu_hours,
        )


class Register(Describing):
    """Make an agent."""

    command = "agentfarm agents register"
    description = (
        "Make an agent: a Hub user with limits of its own, and a token with which a program is that user. The token is "
        "written to stdout, this once; everything else is said on stderr."
    )
    examples = (
        "  agentfarm agents register scout --owner ada --gpus 1 --gpu-hours 20 --expires 90d --token-file scout.token\n"
        "  agentfarm agents register reader --owner ada --servers 1 --gpus 0 --kernel python3 --project weather"
    )
    project = List(Unicode(), help="A project that it works in, a Hub group; repeatable.").tag(config=True)
    token_expires = Seconds(7 * 86400, help="How long its token is good, as in 7d.").tag(config=True)
    token_file = Unicode("", help=_TOKEN_FILE).tag(config=True)
    aliases = {
        **Describing.aliases,
        "project": "Register.project",
        "token-expires": "Register.token_expires",
        "token-file": "Register.token_file",
    }

    async def run(self) -> None:
        """Register the agent and write its token."""
        request = AgentRequest(
            name=self.agent,
            description=self.about,
            owner=self.owner,
            labels=dict(self.label),
            limits=self.limits(AgentLimits()),
            kernels=tuple(self.kernel),
            projects=tuple(self.project),
            expires_in_seconds=self.expires,
            token_expires_in_seconds=self.token_expires,
        )
        async with self.service() as service:
            made = await service.register(request)
        if self.json:
            self.output.json(made)
            return
        self.output.note(f"{self.agent} is registered; {made['agent']['owner']} answers for it.")
        write_token(self, made["token"], self.token_file)


class Change(Describing):
    """Change an agent."""

    command = "agentfarm agents change"
    description = (
        "Change an agent: what is named is set anew, all else stays. What it holds beyond new limits it keeps until "
        "that ends. `--expires 0` takes an expiry back."
    )

    async def run(self) -> None:
        """Change it."""
        async with self.service() as service:
            limits = self._limits((await service.agent(self.agent))["limits"])
            view = await service.change(self.agent, self._change(limits))
        self.finish(view, f"{self.agent} is changed.")

    def _limits(self, now: Mapping[str, Any]) -> AgentLimits:
        return self.limits(AgentLimits(**now))

    def _change(self, limits: AgentLimits) -> AgentChange:
        return AgentChange(
            description=self.about or None,
            owner=self.owner or None,
            labels=dict(self.label) or None,
            limits=limits,
            kernels=tuple(self.kernel) or None,
            expires_in_seconds=self.expires,
        )


class Token(_OneAgent):
    """Replace an agent's token."""

    command = "agentfarm agents token"
    description = "Revoke the tokens of an agent and write a new one to stdout, this once. Servers and tasks go on."
    examples = "  agentfarm agents token scout --expires 1d --token-file scout.token"
    expires = Seconds(7 * 86400, help="How long it is good, as in 7d.").tag(config=True)
    token_file = Unicode("", help=_TOKEN_FILE).tag(config=True)
    aliases = {**Command.aliases, "expires": "Token.expires", "token-file": "Token.token_file"}

    async def run(self) -> None:
        """Replace it."""
        async with self.service() as service:
            made = await service.new_token(self.agent, self.expires)
        if self.json:
            self.output.json(made)
        else:
            write_token(self, made, self.token_file)


class Suspend(_OneAgent):
    """Suspend an agent."""

    command = "agentfarm agents suspend"
    description = "Stop an agent's servers, revoke its tokens, and hold its tasks until it is resumed."
    reason = Unicode("", help="Why, for people.").tag(config=True)
    aliases = {**Command.aliases, "reason": "Suspend.reason"}

    async def run(self) -> None:
        """Suspend it."""
        async with self.service() as service:
            view = await service.suspend(self.agent, self.reason)
        self.finish(view, f"{self.agent} is suspended.")


class Resume(_OneAgent):
    """Resume an agent."""

    command = "agentfarm agents resume"
    description = "Let a suspended agent work again. It needs a new token, from `agentfarm agents token`."

    async def run(self) -> None:
        """Resume it."""
        async with self.service() as service:
            view = await service.resume(self.agent)
        self.finish(view, f"{self.agent} is active; `agentfarm agents token {self.agent}` gives it a token.")


class Retire(_OneAgent):
    """End an agent for good."""

    command = "agentfarm agents retire"
    description = (
        "End an agent for good: its servers are stopped, its tokens revoked, its tasks cancelled, its Hub user is "
        "deleted. Its name stays reserved."
    )
    reason = Unicode("", help="Why, for people.").tag(config=True)
    workspace = Enum(
        ("keep", "archive"),
        "keep",
        help="keep: its files stay on the nodes. archive: those that its running servers show are packed first.",
    ).tag(config=True)
    aliases = {**Command.aliases, "reason": "Retire.reason", "workspace": "Retire.workspace"}

    async def run(self) -> None:
        """Retire it."""
        async with self.service() as service:
            view = await service.retire(self.agent, self.reason, self.workspace)
        self.finish(view, f"{self.agent} is retired.")


def write_token(command: Command, made: Mapping[str, Any], file: str) -> None:
    """Write a token to a file or to stdout, and say on stderr how long it is good.

    Raises
    ------
    ConfigError
        The file cannot be written; the token is on stdout then.
    """
    good = f"The token is good for {duration(made['expires_at'] - time.time())}"
    if not file:
        command.output.note(f"{good} and is not shown again:")
        command.output.line(made["token"])
        return
    path = Path(file).absolute()
    try:
        write_private(path, made["token"] + "\n")
    except OSError as exc:
        command.output.line(made["token"])
        raise ConfigError(f"{path} cannot be written: {exc.strerror}; the token was written to stdout") from exc
    command.output.note(f"{good}; it is in {path}.")
