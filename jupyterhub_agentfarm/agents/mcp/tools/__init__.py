"""The tools of the MCP endpoint: what a language model may do on the farm, in words that it understands.

Every tool acts with the token of whoever calls it, towards the Hub, the controller, this service's own API and the
caller's servers; the service lends it no power of its own. So what a tool may not do, those refuse. Every tool is
bounded in time and in the size of its answer. What goes wrong is a value with a sentence and a fixed reason.

- :mod:`.caller` who calls, and the clients with that token
- :mod:`.answers` how answers and errors look
- :mod:`.servers`, :mod:`.code`, :mod:`.files`, :mod:`.tasks` the tools
"""
