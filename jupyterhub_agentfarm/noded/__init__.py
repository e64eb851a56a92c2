"""noded, the daemon on a node: it reports what the node has and starts, watches and stops servers there.

::

    controller ──SSH──▶ <state_dir>/noded.sock
                            │
                       connection ──▶ methods ──▶ launcher ──▶ server processes
                            ▲                        │
                            └── telemetry ◀── collectors, NVML, simulated GPUs

It needs no root, no Hub and no network port. Servers are not its children in spirit: they outlive it, and the next
noded adopts them from the state directory.
"""
