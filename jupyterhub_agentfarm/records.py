"""Frozen records to JSON and back, strictly.

A record is a frozen dataclass whose fields are annotated with `str`, `int`, `float`, `bool`, other records,
`X | None`, `Literal[...]`, `tuple[X, ...]` or `Mapping[str, X]`. :func:`from_json` accepts exactly the declared
fields: an unknown key, a missing field or a value of another type is an :class:`~.errors.InvalidField` that names
it. Nothing is coerced, but for an `int` where a `float` is declared, which JSON cannot tell apart.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

from .errors import InvalidField

T = TypeVar("T")

_SCALARS = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}


def to_json(value: Any) -> Any:
    """Return `value` as what `json.dumps` takes; fields that are None are kept as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return value


def from_json(cls: type[T], data: object, where: str = "") -> T:
    """Return a record of `cls` made from decoded JSON.

    Parameters
    ----------
    cls
        The frozen dataclass to make.
    data
        What `json.loads` gave.
    where
        Dotted path of `data` in a larger document, for messages.

    Raises
    ------
    InvalidField
        A key is unknown, a field is missing, or a value is of another type.
    """
    if not isinstance(data, dict):
        raise InvalidField(where or "the request body", "a JSON object", data)
    fields = _fields(typing.cast("Any", cls))
    for key in data:
        if key not in fields:
            raise InvalidField(_dotted(where, str(key)), f"one of {', '.join(sorted(fields))}", key)
    values = {}
    for name, (annotation, required) in fields.items():
        if name in data:
            values[name] = _value(annotation, data[name], _dotted(where, name))
        elif required:
            raise InvalidField(_dotted(where, name), "given", None)
    return cls(**values)


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


@functools.cache
def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(cls)
        if field.init
    }


def _value(annotation: Any, value: object, where: str) -> Any:
    origin = get_origin(annotation)
    if annotation is Any or annotation is object:
        return value
    if origin in (types.UnionType, typing.Union):
        return _optional(get_args(annotation), value, where)
    if origin is Literal:
        return _literal(get_args(annotation), value, where)
    if origin is tuple:
        return _tuple(get_args(annotation)[0], value, where)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(get_args(annotation)[1], value, where)
    if dataclasses.is_dataclass(annotation):
        return from_json(typing.cast("type[Any]", annotation), value, where)
    return _scalar(annotation, value, where)


def _optional(options: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    (only,) = [option for option in options if option is not type(None)]
    return _value(only, value, where)


def _literal(allowed: tuple[Any, ...], value: object, where: str) -> Any:
    if value not in allowed or isinstance(value, bool) != any(isinstance(a, bool) for a in allowed):
        raise InvalidField(where, "one of " + ", ".join(map(repr, allowed)), value)
    return value


def _tuple(item: Any, value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidField(where, "a list", value)
    return tuple(_value(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))


def _mapping(item: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidField(where, "a JSON object", value)
    return {key: _value(item, entry, _dotted(where, key)) for key, entry in value.items()}


def _scalar(annotation: Any, value: object, where: str) -> Any:
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as exc:
            raise InvalidField(where, "a number of at most 300 digits", "a longer one") from exc
    if isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool)):
        return value
    raise InvalidField(where, _SCALARS[annotation], value)
