"""Reports in every format, made off the event loop: one drawing and one printing at a time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from typing import Any

from traitlets import Unicode
from traitlets.config import LoggingConfigurable

from ...traitlets import Seconds
from .crosscheck import CrossCheck
from .document import Report
from .pdf import PRINT_SECONDS, print_pdf
from .prometheus import PrometheusCheck

#: Comparisons with Prometheus that are kept, so that looking at a report again asks it nothing.
KEPT_CHECKS = 32


class ReportRenderer(LoggingConfigurable):
    """Makes the reports of runs in every format.

    Parameters
    ----------
    check
        Compares a run with Prometheus.
    """

    chromium = Unicode(
        "", help="Path of the Chromium that prints reports as PDF. Default: chromium or google-chrome on the PATH."
    ).tag(config=True)
    pdf_timeout = Seconds(
        PRINT_SECONDS,
        help="How long printing one report may take, in seconds. Smaller: a request for a PDF is refused sooner; "
        "larger: a slow machine prints large reports.",
    ).tag(config=True)

    def __init__(self, check: PrometheusCheck, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._check = check
        self._printing = asyncio.Lock()
        self._drawing = asyncio.Lock()
        self._checks: OrderedDict[str, CrossCheck] = OrderedDict()

    async def checked(self, report: Report) -> Report:
        """Return the report with what came of comparing it with Prometheus, where one is configured."""
        known = self._checks.get(report.run.id)
        found = known or await self._check.compare(report.evidence)
        if found is not None and not found.problem and not report.run.going:
            self._checks[report.run.id] = found
            if len(self._checks) > KEPT_CHECKS:
                self._checks.popitem(last=False)
        return dataclasses.replace(report, crosscheck=found)

    async def render(self, report: Report, form: str) -> bytes:
        """Return the report in one of :data:`~.document.FORMATS`.

        Raises
        ------
        ConflictError
            A PDF is asked for and there is no Chromium, or it did not print in time.
        """
        async with self._drawing:
            text = await asyncio.to_thread(report.as_format, "html" if form == "pdf" else form)
        if form != "pdf":
            return text.encode()
        async with self._printing:
            return await print_pdf(text, self.chromium or None, self.pdf_timeout)
