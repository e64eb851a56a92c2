"""The benchmark service: what the farm delivers, measured with real notebooks on all nodes at once.

- :mod:`.suites` what is measured, read from TOML
- :mod:`.models` the records of a run
- :mod:`.store` runs, results and samples in a database
- :mod:`.farm` the farm as the controller tells it, kept fresh
- :mod:`.exposition` the metrics page
- :mod:`.servers` the named servers that a run starts
- :mod:`.notebooks` one notebook on one server, through the runs extension
- :mod:`.sampler` samples of nodes and farm while a run goes
- :mod:`.provenance` under which conditions a run was made
- :mod:`.runner` one run from start to end
- :mod:`.bench` the runs of this service: one at a time, durable, followed by many
- :mod:`.report` what a run means
- :mod:`.handlers`, :mod:`.app` the service; :mod:`.client` its client
"""
