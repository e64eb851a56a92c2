"""How noded keeps servers apart: accounts, limits and sandboxes.

::

    LaunchSpec ──accounts──▶ Account ──┐
                                       ├─▶ Launch ──sandbox──▶ Wrapped ──┐
    environment, server directory ─────┘                                 ├─▶ Confined ──enter──▶ the server
                                  ResourceLimits, GPUs ──limiter──▶ Placed ┘

`isolator` puts the layers together and knows what this node can give; a launch that asks for more is refused.
`projects` sees to the directories that servers of one project share, whichever layers keep them apart otherwise.
`enter` is the small program between noded and the server: it joins the cgroups, takes the account's ids and executes
what comes next. Nothing of the server runs before it is in its cgroups.
"""
