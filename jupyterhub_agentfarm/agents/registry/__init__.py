"""Who is an agent: the registry, what the Hub and the controller know of agents, and their tokens."""
