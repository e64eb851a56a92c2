"""Where the Hub does less than servers on other machines need, and what is done about it.

Everything here was seen with JupyterHub 6.1.1. Each has a test that runs the same scenario without what is done here
and expects the damage: when JupyterHub mends one, that test fails, and the code can go.

==== ============================================== ============================================== ====================
     what JupyterHub does                           what it could do                               what is done here
==== ============================================== ============================================== ====================
F1   It saves a spawner's state after `start` only: Save it before it calls `start`, and again     `keep_state`, before
     one killed in a start forgets the server and   when the spawner asks for it.                  the launch; and
     never calls `stop`.                                                                           :mod:`.orphans`
F2   It takes a URL for a server that was starting  Not save a server's row before there is a      `get_url` asks the
     from a row that it made before the start.      URL.                                           controller
F3   A restarted one writes the scheme of `get_url` Write `proto`.                                 `take_scheme`
     to `server.protocol`, which nothing reads: an
     https server is probed and routed as http.
F4   A stop revokes the server's token by the token Keep the token's id with the server and        `revoke_token`
     itself, which a restarted one does not have:   revoke by it.
     the token stays good for ever.
F5   It polls a server again when the last poll has Bound the call of `poll`.                      `poll` reads a cache
     returned: one that hangs ends all polling.
F6   A poll that fails at its start ends the        Take an error for "not known".                 `poll` never raises
     server's record, without `stop`.
F7   At its start it gives a server `http_timeout`  Ask the spawner whether to go on waiting.      `until_it_answers`,
     to answer, any answer, and else stops it: a                                                   in the poll before
     node that was cut off loses its servers, and a
     stranger on the port is routed to.
F8   After a start that failed it calls `stop` only Call `stop` after every start.                 `poll` says "runs"
     if `poll` says that the server runs.                                                          while there is a
                                                                                                   lease
F9   A deletion cancels a start and gives it one    Await the cancelled start, with a limit, and   `start` ends at once
     second to end. After that it answers 500, and  stop the server after it in any case.          when cancelled, its
     the server counts as ready for ever.                                                          cleaning goes on in
                                                                                                   the watch;
                                                                                                   `end_phantom`
F10  A start after one that failed is answered 201  Look at the spawner that it starts.            clients read the
     ("runs") while it is pending.                                                                 server's model
F11  `http_timeout` does not bound a server that    Give the request what is left of the time.     :mod:`..configure`
     accepts and stays silent: aiohttp's five                                                      sets a limit for all
     minutes do.                                                                                   the Hub's requests
F12  The progress page shows `SpawnException`'s     Use `message` and `message_html`.              `show_to_user`
     representation with its `log_message`, and not
     the message for the user.
==== ============================================== ============================================== ====================
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jupyterhub import orm
from jupyterhub.utils import url_escape_path, url_path_join

from ..errors import NotFoundError
from .lease_cache import exit_status

if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner
else:
    Spawner = object

#: A deletion waits for one second before it stops a server whose start it cancelled; a phantom stays for longer.
PHANTOM_SECONDS = 5.0
_PENDING_SECONDS = 0.2


class HubWorkarounds(Spawner):
    """What a spawner does because of the Hub; a class that JupyterHub's own spawner is mixed in with."""

    lease_id: str | None

    # ---- F1 ----

    def keep_state(self) -> None:
        """Write the state to the Hub's database now: a Hub that is killed in the middle finds its server again."""
        self.orm_spawner.state = self.get_state()
        self.user.db.commit()

    # ---- F3 ----

    def take_scheme(self, url: str) -> None:
        """Set the scheme at which the Hub reaches the server to that of `url`."""
        scheme = urlsplit(url).scheme
        if self.server is not None and self.server.proto != scheme:
            self.server.proto = scheme
            self.user.db.commit()

    # ---- F4 ----

    def revoke_token(self) -> None:
        """Delete the server's API tokens after a restart of the Hub, which then does not know them.

        They are found by their note: a Hub that is killed early in a start has made a token and written down nothing.
        """
        # With a server this comes before a start, whose token has just been made: the stop before it has done this.
        if self.api_token or self.server is not None:
            return
        note = f"Server at {url_path_join(self.user.base_url, url_escape_path(self.name), '/')}"  # as `User.spawn` does
        for token in self.user.db.query(orm.APIToken).filter_by(user_id=self.user.id, note=note):
            self.user.db.delete(token)
        self.user.db.commit()

    # ---- F7 ----

    async def until_it_answers(self, lease_id: str, timeout_seconds: float) -> int | None:
        """Return None when the server that an earlier Hub started answers as itself, else its exit status.

        Parameters
        ----------
        lease_id
            The server's lease, whose end ends the wait.
        timeout_seconds
            After that the server is given up.
        """
        url = self.known_url(lease_id)
        if url is None:
            return None
        api_url = url_path_join(url, self.server.base_url, "api")
        try:
            async with asyncio.timeout(timeout_seconds):
                end = await self.first_of_answer_and_end(lease_id, api_url)
        except NotFoundError:
            return 1
        except TimeoutError:
            message = "%s does not answer at %s within %g s of the Hub's start: it is stopped"
            self.log.warning(message, self._log_name, api_url, timeout_seconds)
            return 1
        return None if end is None else exit_status(end)

    def known_url(self, lease_id: str) -> str | None:
        """Return where the lease's server is, without its base URL; None when that is not known."""
        raise NotImplementedError

    async def first_of_answer_and_end(self, lease_id: str, api_url: str) -> Any:
        """Return None once the server answers as itself, or its lease once that ended."""
        raise NotImplementedError

    # ---- F9 ----

    async def end_phantom(self, lease_id: str | None) -> None:
        """Stop a server that counts as ready though its start, which held `lease_id`, was cancelled."""
        while self.pending:  # noqa: ASYNC110 - JupyterHub tells nobody when that changes
            await asyncio.sleep(_PENDING_SECONDS)
        await asyncio.sleep(PHANTOM_SECONDS)
        if self.ready and self.lease_id == lease_id and self.user.spawners.get(self.name) is self:
            self.log.warning("%s's start was cancelled and the Hub takes it for ready: it is stopped", self._log_name)
            await self.user.stop(self.name)


# ---- F12 ----


def show_to_user(error: Any, message: str, html: str) -> None:
    """Have the Hub's pages and its progress show `message`, or `html` where there is markup, for `error`."""
    error.jupyterhub_message = message
    error.jupyterhub_html_message = html
