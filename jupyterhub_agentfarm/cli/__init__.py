"""The ``agentfarm`` command: what an admin does with the farm from a shell.

A command has no logic of its own: it asks the controller or the benchmark service and shows the answer. Subcommands
are imported when they are called, so that ``agentfarm --help`` is quick and ``agentfarm noded`` works on a node, which
has none of the Hub's packages.

Exit status: 0 done; 1 it could not be done (one sentence on stderr says why and what to do); 2 it was called the wrong
way; 130 interrupted.
"""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Run ``agentfarm`` with `argv` (default: the process's arguments) and return the exit status."""
    from .app import run

    return run(argv)
