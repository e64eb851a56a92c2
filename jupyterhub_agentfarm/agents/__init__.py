"""AI agents: users of the Hub with limits, whose notebooks are executed on the farm although nodes die.

::

    admin ──▶ registry ──Hub API──▶ user in the group "agents", token with expiry
                 └──controller──▶ limits of servers, GPUs, GPU-hours, labels, kernels

    agent ──REST, MCP, CLI──▶ book of tasks ──▶ dispatcher ──Hub API──▶ the task's named server, on the best node
                                  ▲                 └──▶ carrier: runs extension of that server ──▶ notebook, artifacts
                                  └──────── every change, with time and reason ◀──┘

A task moves through its states (:mod:`.models`), each step written down before the next begins; a service that was
killed takes up every attempt where it was. Running notebooks do not notice: they run beside their kernels.

In the order of the data flow, upwards; ``make check`` keeps it:

- :mod:`.models` the records; :mod:`.access` who sees and does what; :mod:`.metrics`
- :mod:`.jupyter` kernels and files of a server, with the token of whoever asks
- :mod:`.registry` who is an agent, what the Hub and the controller know of it, tokens
- :mod:`.tasks` what may be submitted, what a task may become, each change as one transaction, files, followers
- :mod:`.dispatch` which task is next, its server, and one attempt from claim to artifacts
- :mod:`.mcp` the MCP endpoint and its tools; :mod:`.pages` the pages, and notebooks as documents
- :mod:`.api` the description, :mod:`.client` the client, :mod:`.app` the service
"""
