"""The benchmark service: what the farm delivers, measured with real notebooks on all nodes at once.

What a run is:

- :mod:`.definition`, :mod:`.suites` what is measured and how, read from TOML
- :mod:`.models` the records of a run; :mod:`.plan` its nodes and phases, :mod:`.preparation` every check
- :mod:`.provenance` under which conditions it was made

How it is carried out, over as many lives of the service as it takes:

- :mod:`.runner` from start to end, :mod:`.lanes` the work of a phase, :mod:`.cases` one notebook on one server
- :mod:`.seats` a node's server, watched and started again; :mod:`.servers` the Hub's part; :mod:`.exclusive` nodes kept
- :mod:`.ledger` what is written down; :mod:`.sampler` samples, :mod:`.limits` limits, :mod:`.gaps` what never came
- :mod:`.clock` time over restarts; :mod:`.store`, :mod:`.tables` the database

The service:

- :mod:`.bench` the runs, several at a time, followed by many; :mod:`.sweeper` what no run has
- :mod:`.exposition`, :mod:`.counters` and their neighbours the metrics page; :mod:`.report` what a run means
- :mod:`.handlers`, :mod:`.api`, :mod:`.app` the service; :mod:`.client` its client
"""
