"""The server that users get: jupyterhub-singleuser that listens on a socket it inherits.

It differs from ``jupyterhub-singleuser`` in five things, each of which user and command line configuration
overrides where that makes sense:

* it takes the listening socket that noded made (:mod:`.inherited`), so that its port cannot be lost to anybody;
* every answer names the lease in ``X-AgentFarm-Lease``, by which the spawner knows whose answer it got;
* kernel WebSockets do not wait for TCP acknowledgements and lose no output to a rate limit (:mod:`.websocket`);
* a revoked token stops working after 30 seconds, not after five minutes;
* it starts without what a server does not need (:mod:`.shortcuts`).
"""
