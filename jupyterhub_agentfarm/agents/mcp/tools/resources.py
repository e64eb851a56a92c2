"""What a server or a task needs, as a model says it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ....models import UserOptions
from ....records import from_json

GIB = 2**30


class Resources(BaseModel):
    """What a server needs of its node. Leave out what does not matter: the farm chooses the best node that fits."""

    model_config = ConfigDict(extra="forbid")

    gpus: Annotated[int, Field(description="GPUs for this server alone.", ge=0, le=16)] = 0
    gpu_memory_gib: Annotated[float, Field(description="Least memory of each GPU, in GiB.", ge=0, le=1024)] = 0
    gpu_model: Annotated[str, Field(description="A part of the GPU's name, as in a100.", max_length=100)] = ""
    cpus: Annotated[float, Field(description="Cores that must be free.", ge=0, le=1024)] = 0
    memory_gib: Annotated[float, Field(description="Memory that must be free, in GiB.", ge=0, le=65536)] = 0
    kernel: Annotated[str, Field(description="Kernel that the node must have, as in ir.", max_length=64)] = ""
    labels: Annotated[dict[str, str], Field(description="Labels that the node must have.")] = {}
    node: Annotated[str | None, Field(description="One node by name; rarely needed.")] = None

    def options(self) -> dict[str, Any]:
        """Return the Hub's `user_options` for this.

        Raises
        ------
        InvalidField
            The farm takes no such options.
        """
        asked = {
            "gpus": self.gpus,
            "gpu_memory_bytes": int(self.gpu_memory_gib * GIB),
            "gpu_model": self.gpu_model,
            "cpus": self.cpus,
            "memory_bytes": int(self.memory_gib * GIB),
            "kernel": self.kernel,
            "labels": self.labels,
            "node": self.node,
        }
        options = {name: value for name, value in asked.items() if value}
        from_json(UserOptions, options)
        return options
