"""The kernels that a server starts: those that its owner may use, whatever the server's own configuration says.

The controller names them in the server's environment when it is launched. This holds for what asks the server: its
API, JupyterLab, runs of notebooks. What a kernel or a terminal starts by itself is the account's own business.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

#: Names of the kernels that may be started, separated by commas; absent or empty: any.
VARIABLE = "AGENTFARM_KERNELS"


def allowed_kernels(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the names of the kernels that may be started, in lower case; none: any."""
    return tuple(name.lower() for name in environment.get(VARIABLE, "").split(",") if name)


def limited(kind: type[KernelSpecManager], allowed: tuple[str, ...]) -> type[KernelSpecManager]:
    """Return a class that finds what `kind` finds of the allowed kernels, and nothing else.

    Jupyter's own `allowed_kernelspecs` only hides the others: who knows the name of one may still start it.
    """

    class AllowedKernels(kind):  # type: ignore[valid-type, misc]
        """Finds the allowed kernels only."""

        def find_kernel_specs(self) -> dict[str, str]:
            """Return the folders of the allowed kernels."""
            return {name: path for name, path in super().find_kernel_specs().items() if name.lower() in allowed}

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            """Return the kernel of this name, if it is allowed."""
            if kernel_name.lower() not in allowed:
                raise NoSuchKernel(kernel_name)
            found: KernelSpec = super().get_kernel_spec(kernel_name)
            return found

    return AllowedKernels


def starting_only(kind: type[MappingKernelManager], allowed: tuple[str, ...]) -> type[MappingKernelManager]:
    """Return a class that refuses other kernels before it knows of them: one that fails to start stays in its list."""

    class StartsAllowedKernels(kind):  # type: ignore[valid-type, misc]
        """Starts the allowed kernels only."""

        async def start_kernel(self, *, kernel_name: str | None = None, **options: Any) -> str:
            """Start the kernel of this name, if it is allowed."""
            if kernel_name and kernel_name.lower() not in allowed:
                raise NoSuchKernel(kernel_name)
            return str(await super().start_kernel(kernel_name=kernel_name, **options))

    return StartsAllowedKernels
