"""The queries to a Prometheus that scraped the metrics page during a run."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import numpy as np
from traitlets import Integer, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from ...errors import ConfigError
from ...metrics import escape_label_value
from ...traitlets import Seconds
from .crosscheck import CrossCheck, Observed, cross_check
from .evidence import Evidence

#: Values that Prometheus is asked for of each series; it refuses more than 11,000.
MAX_POINTS = 600
#: A counter is looked at from this long before the run, so that its first case is seen, to this long after it.
BEFORE_SECONDS, AFTER_SECONDS = 60.0, 60.0
#: Nodes named in one query.
NODES_PER_QUERY = 50
_GAUGES = {
    "cpu": "max by (node) (agentfarm_node_cpu_utilization_ratio{%s})",
    "memory": "max by (node) (1 - agentfarm_node_memory_available_bytes{%s} / agentfarm_node_memory_total_bytes{%s})",
    "gpu": "avg by (node) (max by (node, gpu) (agentfarm_gpu_utilization_ratio{%s}))",
    "up": "max by (node) (agentfarm_node_up{%s})",
}
_COMPLETED = 'max by (node, case) (agentfarm_benchmark_cases_total{%s,outcome="succeeded"})'

Series = Mapping[tuple[str, str], np.ndarray]


class _Refused(Exception):
    """Prometheus did not answer as it should; the message is the rest of a sentence that begins with it."""


class PrometheusCheck(LoggingConfigurable):
    """Asks a Prometheus what it saw of a run, and compares; whatever is wrong with it is said and nothing else."""

    url = Unicode(
        "",
        help="Where a Prometheus is that scrapes the farm's metrics page, as in http://127.0.0.1:9090. Reports then "
        "compare their figures with its. Default: none.",
    ).tag(config=True)
    token_file = Unicode("", help="File with a bearer token for it, where it wants one. Default: none is sent.").tag(
        config=True
    )
    selector = Unicode(
        "",
        help='Further label matchers, as in cluster="lab", where it watches more than one farm with nodes of the same '
        "names. Default: none.",
    ).tag(config=True)
    timeout = Seconds(
        20,
        help="How long all of its answers may take together, in seconds. Smaller: a report is there sooner when it "
        "does not answer; larger: a slow one is waited for.",
    ).tag(config=True)
    max_answer_bytes = Integer(
        64 * 2**20, help="The longest answer that is read, in bytes. One answer is held in memory at a time."
    ).tag(config=True)

    @validate("url")
    def _check_url(self, proposal: Any) -> str:
        url = str(proposal["value"]).rstrip("/")
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise TraitError(f"PrometheusCheck.url has to be as in http://127.0.0.1:9090, not {url!r}")
        return url

    async def compare(self, evidence: Evidence) -> CrossCheck | None:
        """Return the comparison; None where no Prometheus is configured."""
        if not self.url:
            return None
        shown = _without_password(self.url)
        try:
            async with asyncio.timeout(self.timeout):
                step, observed = await self._observe(evidence)
        except TimeoutError:
            return CrossCheck(shown, f"it did not answer within {self.timeout:g} s.")
        except _Refused as exc:
            return CrossCheck(shown, str(exc))
        except aiohttp.ClientError as exc:
            return CrossCheck(shown, f"it could not be reached ({type(exc).__name__}).")
        except ConfigError as exc:
            return CrossCheck(shown, exc.message)
        return await asyncio.to_thread(cross_check, evidence, shown, step, observed)

    async def _observe(self, evidence: Evidence) -> tuple[float, dict[str, Observed]]:
        step = max(1.0, math.ceil(evidence.seconds / MAX_POINTS))
        found: dict[str, Observed] = {}
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        async with aiohttp.ClientSession(timeout=timeout, headers=await self._headers()) as session:
            for first in range(0, len(evidence.names), NODES_PER_QUERY):
                found |= await self._nodes(session, evidence, step, evidence.names[first : first + NODES_PER_QUERY])
        return step, found

    async def _nodes(
        self, session: aiohttp.ClientSession, evidence: Evidence, step: float, names: list[str]
    ) -> dict[str, Observed]:
        start, end = evidence.window
        either = escape_label_value("|".join(map(re.escape, names)))
        matchers = f'node=~"{either}"' + (f",{self.selector}" if self.selector else "")
        values: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
        for key, query in _GAUGES.items():
            filled = query.replace("%s", matchers)
            for (node, _), series in (await self._range(session, filled, start, end, step)).items():
                values[node][key] = series[:, 1]
        wanted = _COMPLETED % f'{matchers},suite="{escape_label_value(evidence.run.suite)}"'
        begin, stop = start - BEFORE_SECONDS, end + AFTER_SECONDS
        counters = await self._range(session, wanted, begin, stop, max(1.0, step))
        # A counter that appears within the run begins at 0 if the node was being scraped before.
        counts = {
            name: sum(_increase(series, start) for (node, _), series in counters.items() if node == name)
            if len(values[name].get("up", ()))
            else None
            for name in names
        }
        return {name: Observed(values[name], counts[name]) for name in names}

    async def _range(self, session: aiohttp.ClientSession, query: str, start: float, end: float, step: float) -> Series:
        """Return the values of a range query by node and case, as rows of instant and value."""
        form = {"query": query, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        async with session.post(f"{self.url}/api/v1/query_range", data=form, allow_redirects=False) as answer:
            body = await self._body(answer)
            try:
                return await asyncio.to_thread(_series, body)
            except (ValueError, KeyError, TypeError, IndexError) as exc:
                raise _Refused(f"it answered {answer.status} with something that is no result of a query.") from exc

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for part in answer.content.iter_chunked(2**16):
            body += part
            if len(body) > self.max_answer_bytes:
                raise _Refused(f"an answer is longer than PrometheusCheck.max_answer_bytes ({self.max_answer_bytes}).")
        if answer.status in (401, 403):
            raise _Refused(f"it refused us ({answer.status}): set PrometheusCheck.token_file.")
        return bytes(body)

    async def _headers(self) -> dict[str, str]:
        if not self.token_file:
            return {}
        try:
            token = await asyncio.to_thread(lambda: Path(self.token_file).read_text().strip())
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"PrometheusCheck.token_file cannot be read: {exc}") from exc
        return {"Authorization": f"Bearer {token}"}


def _series(body: bytes) -> Series:
    """Return the series of an answer.

    Raises
    ------
    ValueError, KeyError, TypeError, IndexError
        It is no answer of a range query.
    _Refused
        It is an error that Prometheus explains.
    """
    answer = json.loads(body)
    if answer["status"] != "success":
        raise _Refused(f"it refused a query: {str(answer.get('error'))[:200]}.")
    found = {}
    for series in answer["data"]["result"]:
        labels = series["metric"]
        rows = np.array([(float(at), float(value)) for at, value in series["values"]]).reshape(-1, 2)
        found[str(labels["node"]), str(labels.get("case", ""))] = rows[~np.isnan(rows[:, 1])]
    return found


def _increase(series: np.ndarray, start: float) -> int:
    """Return by how much a counter grew from `start` on; it may begin again at 0."""
    if not len(series):
        return 0
    before = series[series[:, 0] < start]
    values = np.concatenate([before[-1:, 1] if len(before) else [0.0], series[series[:, 0] >= start][:, 1]])
    grown = np.diff(values)
    return round(float(np.where(grown < 0, values[1:], grown).sum()))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
