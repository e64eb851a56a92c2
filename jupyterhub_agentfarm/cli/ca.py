"""``agentfarm ca``: the farm's certificate authority for logins, made and shown.

Nothing is asked of the controller: the key is a file on its machine, which `SSHPool.user_ca` names.
"""

from __future__ import annotations

from pathlib import Path

from ..terminal.parsing import Parsed
from .command import Command

_CLI = "jupyterhub_agentfarm.cli"


class Ca(Parsed):
    """The farm's certificate authority."""

    command = "agentfarm ca"
    description = (
        "The certificate authority that signs the controller's logins, so that neither the Hub nor a node keeps a key "
        "that logs in."
    )
    subcommands = {
        "init": (f"{_CLI}.ca.InitCa", "Make the authority's key"),
        "show": (f"{_CLI}.ca.ShowCa", "Print what nodes must trust"),
    }


class _CaCommand(Command):
    """A command about the authority's key."""

    positionals = ("PATH",)

    @property
    def path(self) -> Path:
        """The authority's private key."""
        return Path(self.extra_args[0]).expanduser().absolute()

    def show(self, line: str, fingerprint: str) -> None:
        """Write the public line, and beside it what is to be done with it."""
        if self.json:
            self.output.json({"path": str(self.path), "public_key": line, "fingerprint": fingerprint})
            return
        self.output.line(line)
        self.output.note(f"\nThis is the public half of {self.path} ({fingerprint}).")
        self.output.note("On each node, as root: write the line into /etc/ssh/agentfarm_ca.pub, put")
        self.output.note("    TrustedUserCAKeys /etc/ssh/agentfarm_ca.pub")
        self.output.note("into /etc/ssh/sshd_config, and reload sshd. Without root, put this into the")
        self.output.note("~/.ssh/authorized_keys of the farm's account there, and take older keys of the farm out:")
        self.output.note(f"    cert-authority,restrict,port-forwarding {line}")
        self.output.note("On the Hub, in jupyterhub_config.py:")
        self.output.note(f'    c.SSHPool.user_ca = "{self.path}"')


class InitCa(_CaCommand):
    """Make the authority's key."""

    command = "agentfarm ca init"
    description = (
        "Make a certificate authority's key (0600) at PATH, never over another file, and print what nodes must trust. "
        "Run it on the controller's machine, as the account of the Hub."
    )
    examples = "  agentfarm ca init /srv/jupyterhub/agentfarm_ca > agentfarm_ca.pub"

    async def run(self) -> None:
        """Make it and say what is next."""
        from ..transport import fingerprint
        from ..transport.user_ca import make_ca

        line = make_ca(self.path)
        self.show(line, fingerprint(line))


class ShowCa(_CaCommand):
    """Print what nodes must trust."""

    command = "agentfarm ca show"
    description = "Print the public half of the authority's key at PATH, and what to do with it."

    async def run(self) -> None:
        """Read it and say what is next."""
        from ..transport.user_ca import load_ca, public_line

        key = load_ca(self.path)
        self.show(public_line(key), key.get_fingerprint())
