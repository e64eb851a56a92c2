"""From an available task to its result: which is next, its server, and one attempt until its end."""
