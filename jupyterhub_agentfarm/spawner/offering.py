"""What a site lets its users ask for: the spawner's options for it, mixed in with JupyterHub's own spawner."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitlets import Dict, Float, Integer

from ..traitlets import ByteSize
from .options import Limits

if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner
else:
    from traitlets.config import LoggingConfigurable as Spawner  # JupyterHub's own refuses classes without a start


class OfferingSpawner(Spawner):
    """The most that a user may ask for."""

    max_gpus = Integer(8, help="Most GPUs that one server may ask for.").tag(config=True)
    max_cpus = Float(
        0,
        min=0,
        help="Most cores that a server may ask to be free for it; 0: as many as a node has. `cpu_limit`, where it is "
        "smaller, counts instead. Smaller leaves more to others; larger lets a server keep a whole node to itself.",
    ).tag(config=True)
    max_memory = ByteSize(
        0,
        help="Most memory that a server may ask to be free for it (in bytes, or as '64G'); 0: as much as a node has. "
        "`mem_limit`, where it is smaller, counts instead. Smaller leaves more to others; larger lets a server keep a "
        "whole node to itself.",
    ).tag(config=True)
    max_priority = Integer(
        0, help="Highest priority in the line that a user may ask for, -100 to 100; 0 lets users only step back."
    ).tag(config=True)
    allowed_labels = Dict(
        default_value=None,
        allow_none=True,
        help="Labels of nodes that users may ask for, and the values of each: `{'disk': ['nvme', 'hdd']}`. None: any.",
    ).tag(config=True)

    def limits(self) -> Limits:
        """Return what this user may ask for."""
        cpus = [each for each in (self.max_cpus, self.cpu_limit) if each]
        memory = [each for each in (self.max_memory, self.mem_limit) if each]
        return Limits(
            self.max_gpus,
            self.max_priority,
            self.allowed_labels,
            max_cpus=min(cpus, default=None),
            max_memory_bytes=min(memory, default=None),
        )
