"""How long a service's requests took, for its metrics page."""

from __future__ import annotations

from ..metrics import METRICS, Histogram, head_lines

NAME = "agentfarm_api_request_duration_seconds"


class RequestDurations:
    """Durations by handler and status: both are from small sets, whatever is asked for.

    Parameters
    ----------
    service
        Name of the service; it stands before that of the handler.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._series: dict[tuple[str, int], Histogram] = {}

    def add(self, handler: type, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Parameters
        ----------
        handler
            The class that answered it.
        """
        key = (f"{self._service}.{handler.__name__.removesuffix('Handler').strip('_')}", status)
        if key not in self._series:
            self._series[key] = Histogram(NAME, {"handler": key[0], "code": str(status)})
        self._series[key].add(seconds)

    def lines(self) -> list[str]:
        """Return the lines of the text format 0.0.4, each without its line feed."""
        return [line for key in sorted(self._series) for line in self._series[key].lines()]

    def text(self) -> str:
        """Return the whole family, or "" before the first request."""
        lines = self.lines()
        return head_lines(METRICS[NAME]) + "".join(f"{line}\n" for line in lines) if lines else ""
