"""The Hub's side of a server: a thin client of the controller.

- :mod:`.spawner` JupyterHub's calls, translated
- :mod:`.starting` one start, from its lease to the first answer of its server
- :mod:`.options` what users may ask for: one validation for the form and the REST API
- :mod:`.watch` what the controller says about the leases, kept by one follower per Hub
- :mod:`.orphans` leases that no server of this Hub holds any more
- :mod:`.readiness` the server itself answers, with its identity
- :mod:`.certified` internal_ssl: a certificate for the granted node, made by :mod:`.certificates`
- :mod:`.progress` what a user sees while waiting
- :mod:`.failure` why a start failed, for the user and for metrics
- :mod:`.hub_workarounds` what JupyterHub leaves open, and what is done about it
- :mod:`.form` the options page
- :mod:`.past` how earlier servers ended; :mod:`.notices` the user is told; :mod:`.restarting` they are started again
"""

from .spawner import AgentFarmSpawner

__all__ = ["AgentFarmSpawner"]
