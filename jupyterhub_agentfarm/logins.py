"""AgentLogins: no person logs in as an agent.

An agent is a user of the Hub, and the Hub lets whoever has a user's name at the identity provider log in as that user.
So every login passes here, in a browser or with a password for a token, after whatever hook the site has itself. It is
refused when its user is an agent: a member of the group `agents`, or one whose name the registry has (also the name of
one that is retired, or just being registered).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .service_roles import AGENTS
from .services import reserved


@dataclass(frozen=True)
class AgentLogins:
    """A `post_auth_hook` of an authenticator.

    Parameters
    ----------
    names
        File of the agents' names, see :mod:`.services.reserved`.
    first
        The site's own hook, which is called before; None: it has none.
    """

    names: Path
    first: Callable[..., Any] | None = None

    async def __call__(self, authenticator: Any, handler: Any, auth_model: Any) -> Any:
        """Return who logged in, or None, which refuses them."""
        if self.first is not None:
            found = self.first(authenticator, handler, auth_model)
            auth_model = await found if inspect.isawaitable(found) else found
        if not auth_model:
            return auth_model
        name = auth_model["name"]
        if _in_group(handler.db, name) or name in reserved.read(self.names):
            authenticator.log.warning("A login as %s was refused: that is an agent, not a person", name)
            return None
        return auth_model


def _in_group(db: Any, name: str) -> bool:
    from jupyterhub.orm import User  # the Hub's own module, which is read here and not by whoever imports this

    user = User.find(db, name)
    return user is not None and any(group.name == AGENTS for group in user.groups)
