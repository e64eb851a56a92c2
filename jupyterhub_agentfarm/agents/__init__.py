"""AI agents: users of the Hub with limits, whose notebooks are executed on the farm although nodes die.

::

    admin ──▶ registry ──Hub API──▶ user in the group "agents", token with expiry
                 └──controller──▶ limits of servers, GPUs, GPU-hours, labels, kernels

    agent ──REST, MCP, CLI──▶ book of tasks ──▶ dispatcher ──Hub API──▶ the task's named server, on the best node
                                  ▲                 └──▶ carrier: runs extension of that server ──▶ notebook, artifacts
                                  └──────── every change, with time and reason ◀──┘

A task moves through its states (:mod:`.models`), each step written down before the next begins; a service that was
killed takes up every attempt where it was. Running notebooks do not notice: they run beside their kernels.

- :mod:`.models` the records
- `registry`, `hub_users` who is an agent, and what the Hub knows of it
- `states`, `steps`, `task_store` what a task may become, and each change of it as one transaction
- `book`, `task_records`, `files`, `task_news` all tasks with their notebooks and artifacts, and who is told
- `task_intake`, `task_rules` what may be submitted, and by whom
- `dispatcher`, `carrier`, `servers` which task is next, and one attempt from claim to artifacts
- `mcp_server` and what its tools use: `kernels`, `workspace`
- `rendering`, `notebook_html`, `live` notebooks as documents, also while they execute
- `agent_handlers`, `task_handlers`, `pages`, `api` what the service answers
"""
