"""One start, from its lease to the first answer of its server.

::

    lease ─▶ wait in line ─▶ launch ─▶ the server itself answers ─▶ URL

Each step has its own limit of time: the line `queue_timeout`, launch and answer together `boot_timeout`. What happens
is shown in the spawner's progress.
"""

from __future__ import annotations

import asyncio
import functools
import operator
from typing import TYPE_CHECKING

from jupyterhub.utils import url_path_join

from ..errors import AgentFarmError, NotFoundError, QuotaExceeded, ServerDied
from ..logs import LogLine
from ..models import LaunchOrder, Lease
from ..noded.directories import PLACEHOLDER
from . import failure
from .certificates import ServerCertificate
from .certified import certify
from .lease_cache import ended
from .limits import resource_limits
from .projects import projects_of
from .readiness import until_ready

if TYPE_CHECKING:
    from .spawner import AgentFarmSpawner

SERVER_MODULE = "jupyterhub_agentfarm.server"
_LOG_LINES = 50
_LOG_SECONDS = 5.0


class Start:
    """One start of a spawner's server.

    Parameters
    ----------
    spawner
        Whose server it is; it is told of the launch.
    """

    def __init__(self, spawner: AgentFarmSpawner) -> None:
        self._spawner = spawner
        self._watch, self._progress = spawner.watch, spawner.spawn_progress

    async def finished(self, lease: Lease) -> str:
        """Return the server's URL once the server itself answers there.

        Raises
        ------
        AgentFarmError
            The request left the line, the launch failed, or the server ended.
        tornado.web.HTTPError
            A limit of time passed.
        """
        return await self._booted(await self._granted(lease))

    async def _granted(self, lease: Lease) -> Lease:
        """Wait in line."""
        try:
            async with asyncio.timeout(self._spawner.queue_timeout):
                while lease.state == "waiting":
                    place = f"position {lease.position}" if lease.position is not None else "waiting"
                    self._progress.add(10, f"In line, {place}: {lease.detail or 'nothing is free now'}")
                    lease = await self._watch.until(lease.id, functools.partial(operator.ne, lease))
        except TimeoutError as exc:
            seconds = f"{self._spawner.queue_timeout:g}"
            message = f"Nothing became free within {seconds} seconds: ask for less, or try again later"
            raise failure.start_failure(message, "queue_timeout", 503) from exc
        if lease.end == "quota":
            raise QuotaExceeded(lease.detail)
        if not lease.alive:
            raise NotFoundError(f"The request was taken out of the line: {lease.detail or 'an admin ended it'}")
        chosen = lease.why.sentence() if lease.why is not None else f"{lease.node} was chosen"
        self._progress.add(30, f"Node {chosen}" + (f"; GPUs: {', '.join(lease.gpus)}" if lease.gpus else ""))
        return lease

    async def _booted(self, lease: Lease) -> str:
        """Launch the server and wait until it answers."""
        try:
            async with asyncio.timeout(self._spawner.boot_timeout):
                return await self._launched(lease)
        except TimeoutError as exc:
            message = f"The server on {lease.node} did not answer within {self._spawner.boot_timeout:g} seconds"
            log_tail = await self._log_tail(lease.id)
            self._progress.add(100, message, log_tail)
            raise failure.start_failure(message, "boot_timeout", 504, log_tail) from exc

    async def _launched(self, lease: Lease) -> str:
        certificate = await certify(self._spawner, lease)
        order = self._order(certificate)
        lease = await self._watch.patiently(lambda: self._watch.client.launch(lease.id, order))
        self._watch.remember(lease)
        if lease.url is None:
            raise ServerDied(f"The server on {lease.node} ended at once", await self._log_tail(lease.id))
        self._spawner.note_launch(lease, order)
        if certificate is not None:
            certificate.check(lease)
        self._progress.add(60, f"Started on {lease.node}; waiting for its first answer")
        url = url_path_join(lease.url, self._spawner.server.base_url)
        await self._answered(lease, url_path_join(url, "api"), order.socket == "inherit")
        self._progress.add(95, "The server answers")
        return str(url)

    def _order(self, certificate: ServerCertificate | None) -> LaunchOrder:
        """Return what to start. noded sets JUPYTERHUB_SERVICE_URL: only it knows the port."""
        spawner = self._spawner
        command = [*spawner.cmd, *spawner.get_args()]
        environment = {name: str(value) for name, value in spawner.get_env().items() if value is not None}
        environment.pop("JUPYTERHUB_SERVICE_URL", None)
        # Jupyter Server writes its token there: not into a home that other machines may have, and that outlives it.
        environment.setdefault("JUPYTER_RUNTIME_DIR", f"{PLACEHOLDER}/jupyter")
        if spawner.shortcuts != spawner.trait_defaults("shortcuts"):
            environment.setdefault("AGENTFARM_SHORTCUTS", ",".join(sorted(spawner.shortcuts)) or "none")
        return LaunchOrder(
            command=tuple(command),
            environment=environment,
            base_url=spawner.server.base_url,
            protocol="http" if certificate is None else "https",
            files={} if certificate is None else certificate.files(),
            socket="inherit" if SERVER_MODULE in command else "port",
            cwd=spawner.format_string(spawner.notebook_dir) if spawner.notebook_dir else None,
            limits=resource_limits(spawner),
            projects=projects_of(spawner),
        )

    async def _answered(self, lease: Lease, api_url: str, identified: bool) -> None:
        """Return when the server answers; raise when it ends before that."""
        end = await self.first_of_answer_and_end(lease.id, api_url, identified)
        if end is not None:
            sentence = end.server.exit.sentence() if end.server and end.server.exit else end.detail or "it was stopped"
            raise ServerDied(f"The server on {lease.node} ended: {sentence}", await self._log_tail(lease.id))

    async def first_of_answer_and_end(self, lease_id: str, api_url: str, identified: bool) -> Lease | None:
        """Return None once the server itself answers, or its lease once that ended; the deadline is the caller's.

        Parameters
        ----------
        lease_id
            The server's lease.
        api_url
            The server's API: base URL and ``api``.
        identified
            Whether the server names its lease in its answers.

        Raises
        ------
        NotFoundError
            The controller knows no such lease.
        """
        context = self._spawner.server_context()
        ready = asyncio.create_task(until_ready(api_url, lease_id if identified else None, context))
        death = asyncio.create_task(self._watch.until(lease_id, ended))
        try:
            await asyncio.wait({ready, death}, return_when=asyncio.FIRST_COMPLETED)
            return ready.result() if ready.done() else death.result()
        finally:
            for task in (ready, death):
                task.cancel()
            await asyncio.gather(ready, death, return_exceptions=True)

    async def _log_tail(self, lease_id: str) -> str:
        try:
            return await asyncio.wait_for(self._watch.client.log(lease_id, _LOG_LINES), _LOG_SECONDS)
        except (AgentFarmError, TimeoutError) as exc:
            self._spawner.log.warning(LogLine("log not read", lease=lease_id, detail=exc))
            return ""
