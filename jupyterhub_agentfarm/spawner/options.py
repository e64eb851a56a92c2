"""What users may ask for: one validation for the form and the REST API.

The form's fields are turned into the JSON that the REST API takes (:func:`form_to_json`); both then go through
:func:`check_options`. Whoever gets past it, by whatever way, asks for no more than the site's :class:`Limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidField
from ..models import UserOptions
from ..records import from_json

_GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What a site lets its users ask for."""

    max_gpus: int
    max_priority: int
    #: Labels that may be asked for and their values; None allows any.
    labels: Mapping[str, Sequence[str]] | None = None


def check_options(data: Any, limits: Limits) -> UserOptions:
    """Return `data`, decoded JSON, as options.

    Raises
    ------
    InvalidField
        A key is unknown, a value has the wrong form, is above a limit, or is not available yet.
    """
    options = from_json(UserOptions, data, "")
    if options.restart != "never":
        raise InvalidField(
            "restart", '"never": servers are not started again after their node failed yet', options.restart
        )
    if options.gpus > limits.max_gpus:
        raise InvalidField("gpus", f"at most {limits.max_gpus} on this Hub", options.gpus)
    if options.priority > limits.max_priority:
        raise InvalidField("priority", f"at most {limits.max_priority} for you", options.priority)
    if limits.labels is not None:
        _check_labels(options.labels, limits.labels)
    return options


def _check_labels(labels: Mapping[str, str], allowed: Mapping[str, Sequence[str]]) -> None:
    for key, value in labels.items():
        if key not in allowed:
            raise InvalidField("labels", f"among the labels {', '.join(sorted(allowed)) or '(none)'}", key)
        if value not in allowed[key]:
            raise InvalidField(f"labels.{key}", f"one of {', '.join(allowed[key])}", value)


def form_to_json(form: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the fields of the options page, or of a /spawn URL's query, as the REST API's JSON.

    A field that was left empty is left out.

    Raises
    ------
    InvalidField
        A field is unknown, or is not a number where one is wanted.
    """
    result: dict[str, Any] = {}
    for key, values in form.items():
        filled = [value.strip() for value in values if value.strip()]
        if key == "_xsrf" or not filled:
            continue
        if key not in _FIELDS:
            raise InvalidField(key, f"one of the fields {', '.join(_FIELDS)}", filled[0])
        target, convert = _FIELDS[key]
        result[target] = convert(key, filled)
    return result


def _text(_: str, values: list[str]) -> str:
    return values[-1]


def _whole(key: str, values: list[str]) -> int:
    try:
        return int(values[-1])
    except ValueError as exc:
        raise InvalidField(key, "a whole number", values[-1]) from exc


def _gibibytes(key: str, values: list[str]) -> int:
    try:
        return int(float(values[-1]) * _GIB)
    except (ValueError, OverflowError) as exc:
        raise InvalidField(key, "a number of GiB", values[-1]) from exc


def _labels(key: str, values: list[str]) -> dict[str, str]:
    result = {}
    for entry in (part.strip() for value in values for part in value.split(",")):
        name, equals, wanted = entry.partition("=")
        if not (name and equals):
            raise InvalidField(key, "labels such as disk=nvme, separated by commas", entry)
        result[name.strip()] = wanted.strip()
    return result


_FIELDS: dict[str, tuple[str, Callable[[str, list[str]], Any]]] = {
    "node": ("node", _text),
    "gpus": ("gpus", _whole),
    "gpu_memory_gib": ("gpu_memory_bytes", _gibibytes),
    "gpu_memory_bytes": ("gpu_memory_bytes", _whole),
    "gpu_model": ("gpu_model", _text),
    "labels": ("labels", _labels),
    "priority": ("priority", _whole),
    "restart": ("restart", _text),
}
