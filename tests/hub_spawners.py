"""Spawners for a Hub that is a process of its own: the real one, and for some users without one of its parts."""

from __future__ import annotations

from jupyterhub_agentfarm.spawner import AgentFarmSpawner


class ByUser(AgentFarmSpawner):
    """The real spawner, less what the name of the user says."""

    def _lacks(self, what: str) -> bool:
        return str(self.user.name).startswith(f"no-{what}-")

    def keep_state(self) -> None:
        """F1: leave it to JupyterHub to save the state."""
        if not self._lacks("state"):
            super().keep_state()

    async def get_url(self) -> str:
        """F2: leave it to JupyterHub's row to say where a server is."""
        return str(self.server.url) if self._lacks("url") else await super().get_url()

    def revoke_token(self) -> None:
        """F4: leave it to JupyterHub to revoke the token."""
        if not self._lacks("revocation"):
            super().revoke_token()
