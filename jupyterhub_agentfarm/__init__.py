"""A farm of plain GPU machines behind JupyterHub.

The data flow, which is also the order of the folders::

    jupyterhub_config.py: agentfarm.configure(c)
            |
    AgentFarmSpawner --> FarmClient --HTTP--> controller (a Hub service)
                                                 |  inventory: which nodes, in what state
                                                 |  placement: filter -> score -> reserve -> lease
                                                 |  transport: one SSH connection per node
                                                 v
                                  noded (on each node): telemetry, launcher
                                                 |
                                    server: jupyterhub-singleuser on an inherited socket,
                                            pinned to the leased GPUs
                                                 |
                                    runs: notebooks executed beside their kernel

    benchmark (a Hub service) --Hub API--> servers --> runs;  /metrics, reports
    agents (a Hub service) --Hub API--> users, tokens, servers --> runs;  registry, tasks, MCP

Layers import downwards only; ``make check`` enforces it.
"""

__all__ = ["__version__", "configure"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import ``configure`` when it is asked for: a node has none of the Hub's packages."""
    if name == "configure":
        from importlib import import_module

        configure: object = import_module(".configure", __name__).configure
        globals()[name] = configure  # the import has put the module of that name there
        return configure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
