"""What every Hub service of the farm is made of: a process, its authentication, its answers.

- :mod:`.app` one traitlets application per service: start, signals, stop
- :mod:`.takeover` one process per service, even after the Hub was killed
- :mod:`.local` how processes of the same account find and trust each other
- :mod:`.handlers` who asks, what they may, and errors as JSON
- :mod:`.sse` server-sent events
- :mod:`.hub` the Hub's REST API
"""

#: Role that has every scope of the farm; :func:`jupyterhub_agentfarm.configure` makes it.
ADMIN_ROLE = "agentfarm-admin"
