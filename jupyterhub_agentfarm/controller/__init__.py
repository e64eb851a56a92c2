"""The controller: the Hub service that owns nodes, placement and leases.

- :mod:`.app` the service's process
- :mod:`.farm` what can be asked of a farm: place, launch, release
- :mod:`.reconcile` what keeps leases and servers the same thing
- :mod:`.handlers`, :mod:`.views`, :mod:`.events` its REST API and page
- :mod:`.client` the API's only client

Nothing is imported here: the client needs neither SSH nor the database.
"""
