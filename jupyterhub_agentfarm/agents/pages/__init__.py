"""The pages of agents and tasks, and notebooks as documents."""
