"""Warm starts: servers are forked from a process that has imported what a server imports.

::

    a start of an environment that has no zygote      is cold, and has one made:
      survey ──▶ what a real server imports, and what its modules read of the environment while they do
      zygote ──▶ imports that, but for what has to be imported in each server; then waits, with one thread
    later starts:
      noded ──descriptors──▶ zygote ──fork──▶ (fork, ends) ──fork──▶ the server, a child of noded
                               │                                       confine, environment, the same launcher
                               │                                         └─fork──▶ the zygote of its kernels, asleep
                               └─ never sees what a server is given: the plan is read after the fork

Where noded adopts orphans (it is their subreaper) the server is its child as one that it executed is: it has the same
identity, is watched and reaped in the same way, and outlives zygote and noded.

How it goes together with the layers of isolation:

==============================  ====================================================================================
accounts, cgroups, prlimit      the forked process confines itself, by the same function as a cold one's first program
a scope of systemd              noded has systemd put the forked process into a new scope before it is anything else
bubblewrap, container           cold: their processes begin in namespaces, with an image's files, that no zygote is in
==============================  ====================================================================================

- :mod:`.recording` what modules read and import while they are imported
- :mod:`.survey`, :mod:`.zygote`, :mod:`.becoming`, :mod:`.bearing`, :mod:`.mending`, :mod:`.kernel` run in the server's
  environment
- :mod:`.environments` which zygote a launch needs, and whether it is as its environment is now
- :mod:`.choosing` why a start is cold
- :mod:`.surveying`, :mod:`.making`, :mod:`.forking`, :mod:`.zygotes` noded's side
"""
