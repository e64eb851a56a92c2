"""What users may ask for: one validation for the form and the REST API.

The form's fields are turned into the JSON that the REST API takes (:func:`form_to_json`); both then go through
:func:`check_options`. Whoever gets past it, by whatever way, asks for no more than the site's :class:`Limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidField
from ..models import PlacementRequest, UserOptions
from ..records import from_json
from . import failure

_GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What a site lets its users ask for."""

    max_gpus: int
    max_priority: int
    #: Labels that may be asked for and their values; None allows any.
    labels: Mapping[str, Sequence[str]] | None = None
    #: Cores and memory that may be asked to be free; None: as much as a node has.
    max_cpus: float | None = None
    max_memory_bytes: int | None = None


def check_options(data: Any, limits: Limits) -> UserOptions:
    """Return `data`, decoded JSON, as options.

    Raises
    ------
    InvalidField
        A key is unknown, a value has the wrong form, or is above a limit.
    """
    options = from_json(UserOptions, data, "")
    if options.gpus > limits.max_gpus:
        raise InvalidField("gpus", f"at most {limits.max_gpus} on this Hub", options.gpus)
    if options.priority > limits.max_priority:
        raise InvalidField("priority", f"at most {limits.max_priority} for you", options.priority)
    if limits.max_cpus is not None and options.cpus > limits.max_cpus:
        raise InvalidField("cpus", f"at most {limits.max_cpus:g} on this Hub", options.cpus)
    if limits.max_memory_bytes is not None and options.memory_bytes > limits.max_memory_bytes:
        most = f"at most {limits.max_memory_bytes} on this Hub, which is {limits.max_memory_bytes / _GIB:.3g} GiB"
        raise InvalidField("memory_bytes", most, options.memory_bytes)
    if limits.labels is not None:
        _check_labels(options.labels, limits.labels)
    return options


def placement_request(spawner: Any, avoid: tuple[str, ...] = ()) -> PlacementRequest:
    """Return what the controller is asked for when a spawner starts, on another node than those to avoid.

    Raises
    ------
    InvalidField
        The options were refused meanwhile, as when the site lowered a limit since they were kept.
    """
    options = check_options(spawner.user_options or {}, spawner.limits())
    return PlacementRequest(
        owner=spawner.user.name,
        server_name=spawner.name,
        options=options,
        cpus=max(options.cpus, float(spawner.cpu_guarantee or 0)),
        memory_bytes=max(options.memory_bytes, int(spawner.mem_guarantee or 0)),
        groups=tuple(sorted(group.name for group in spawner.user.groups)),
        avoid=avoid,
    )


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
        if not all(isinstance(value, str) for value in values):
            raise InvalidField(key, f"one of the fields {', '.join(_FIELDS)}", "a file")
        filled = [value.strip() for value in values if value.strip()]
        if key == "_xsrf" or not filled:
            continue
        if key not in _FIELDS:
            raise InvalidField(key, f"one of the fields {', '.join(_FIELDS)}", filled[0])
        target, convert = _FIELDS[key]
        result[target] = convert(key, filled)
    return result


def apply_options(spawner: Any, user_options: dict[str, Any]) -> None:
    """Refuse what the site does not allow, whichever way it came."""
    try:
        check_options(user_options, spawner.limits())
    except InvalidField as exc:
        # JupyterHub has kept them already, for the next start that names none: that one would be refused too.
        spawner.user_options = spawner.orm_spawner.user_options = {}
        spawner.user.db.commit()
        raise failure.explain(exc) from exc


def options_from_form(form_data: dict[str, list[str]]) -> dict[str, Any]:
    """Return the options page's fields as the REST API's JSON; refuse to the user who sent them."""
    try:
        return form_to_json(form_data)
    except InvalidField as exc:
        raise failure.explain(exc) from exc


def _text(_: str, values: list[str]) -> str:
    return values[-1]


def _whole(key: str, values: list[str]) -> int:
    try:
        return int(values[-1])
    except ValueError as exc:
        raise InvalidField(key, "a whole number", values[-1]) from exc


def _number(key: str, values: list[str]) -> float:
    try:
        return float(values[-1])
    except ValueError as exc:
        raise InvalidField(key, "a number", values[-1]) from exc


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
    "kernel": ("kernel", _text),
    "cpus": ("cpus", _number),
    "memory_gib": ("memory_bytes", _gibibytes),
    "memory_bytes": ("memory_bytes", _whole),
    "labels": ("labels", _labels),
    "priority": ("priority", _whole),
    "restart": ("restart", _text),
}
