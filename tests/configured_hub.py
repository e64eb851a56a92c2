"""A Hub as a process with lines of its own before the root jupyterhub_config.py, as a site has them."""

from __future__ import annotations

from pathlib import Path

from hub_process import HubProcess

TESTS = Path(__file__).parent


def configured(lines: str) -> type[HubProcess]:
    """Return the class of a Hub process whose configuration begins with `lines`, which may change `c`."""

    class Configured(HubProcess):
        def command(self) -> list[str]:
            """Return the Hub's program and arguments."""
            command = super().command()
            place = command.index("-f") + 1
            path = self.directory / "site_config.py"
            root = command[place]
            path.write_text(f"c = get_config()\n{lines}\nexec(compile(open({root!r}).read(), {root!r}, 'exec'))\n")
            return [*command[:place], str(path), *command[place + 1 :]]

    return Configured
