"""A whole farm on one machine, for trying it out: Hub, services, three nodes and a first benchmark."""
