"""``python -m jupyterhub_agentfarm.server.kernels``: the kernels of what servers on this node start from, as JSON.

The controller runs it with a node's `server_python`, as :mod:`.versions`. It prints one line, a list of
:class:`~..models.Kernel`, and finds what jupyter_client's KernelSpecManager finds, without the time that importing it
takes: the first folder of a name counts, and ipykernel's own kernel is there without one. (What IPython kept in
~/.ipython/kernels ten years ago is not looked for.)

With ``--shared`` the kernelspecs of the account that runs it are left out, for servers that run as other accounts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from jupyter_core.paths import jupyter_data_dir, jupyter_path

from ..models import KERNEL_NAME, Kernel
from ..records import to_json

_NATIVE = Kernel("python3", "python", "Python 3 (ipykernel)")
_TEXT_CHARACTERS = 200


def kernels(*, shared: bool = False) -> tuple[Kernel, ...]:
    """Return the kernels that a server of this environment has, by name.

    Parameters
    ----------
    shared
        Leave out what only this account has.
    """
    found: dict[str, Kernel] = {}
    for folder in jupyter_path("kernels"):
        if not (shared and Path(folder) == Path(jupyter_data_dir(), "kernels")):
            for kernel in _kernels_in(Path(folder)):
                found.setdefault(kernel.name, kernel)
    if _NATIVE.name not in found and find_spec("ipykernel") is not None:
        found[_NATIVE.name] = _NATIVE
    return tuple(kernel for _name, kernel in sorted(found.items()))


def _kernels_in(folder: Path) -> Iterator[Kernel]:
    try:
        folders = sorted(folder.iterdir())
    except OSError:
        return
    for each in folders:
        kernel = _kernel(each) if KERNEL_NAME.fullmatch(each.name) else None
        if kernel is not None:
            yield kernel


def _kernel(folder: Path) -> Kernel | None:
    """Return the kernel of a kernelspec's folder; None: it is none, or cannot be read."""
    try:
        spec = json.loads((folder / "kernel.json").read_text(encoding="utf-8"))
        shown = [str(spec.get(key, ""))[:_TEXT_CHARACTERS] for key in ("language", "display_name")]
    except (OSError, ValueError, AttributeError):
        return None
    return Kernel(folder.name.lower(), *shown)


if __name__ == "__main__":
    listed = kernels(shared="--shared" in sys.argv[1:])
    sys.stdout.write(json.dumps([to_json(kernel) for kernel in listed]) + "\n")
