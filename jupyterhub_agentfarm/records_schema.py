"""JSON Schema (2020-12) of records: the same rules that :mod:`.records` checks by, written down for others.

A record has two schemas, for the two ways of a conversation. What is *accepted* may leave out fields with a default,
and nothing that is not a field may be there. What is *answered* has every field. Rules that a record checks itself, in
`__post_init__`, cannot be read from its annotations: they are given as `rules`.

A field's description is the ``#:`` comment above it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

Schema = dict[str, Any]
#: For each record, keywords of its fields; those under "" belong to the record as a whole.
Rules = Mapping[type, Mapping[str, Mapping[str, Any]]]

_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number"}
_FIELD = re.compile(r"    (\w+):")


class Schemas:
    """A set of schemas that refer to each other by name.

    Parameters
    ----------
    rules
        What the records check beyond their annotations.
    where
        What a reference begins with.
    """

    def __init__(self, rules: Rules | None = None, where: str = "#/components/schemas/") -> None:
        self._rules = rules or {}
        self._where = where
        #: By name, as `components/schemas` of a description holds them.
        self.definitions: dict[str, Schema] = {}

    def accepted(self, cls: type) -> Schema:
        """Return a reference to the schema of what :func:`.records.from_json` takes for `cls`."""
        return self._record(cls, answered=False)

    def answered(self, cls: type) -> Schema:
        """Return a reference to the schema of what :func:`.records.to_json` makes of a `cls`."""
        return self._record(cls, answered=True)

    def reference(self, name: str) -> Schema:
        """Return a reference to the schema `name`."""
        return {"$ref": self._where + name}

    def needs_body(self, schema: Schema) -> bool:
        """Whether an empty object is no value of a record's schema: then a request must have a body."""
        referred = self.definitions[schema["$ref"].removeprefix(self._where)]
        return bool(schema.get("required") or referred["required"] or "oneOf" in referred)

    def extended(self, title: str, cls: type, without: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
        """Define the answer `title`: a record with other or more properties, all of them always there."""
        self.answered(cls)
        base = self.definitions[cls.__name__]
        kept = {key: value for key, value in base["properties"].items() if key not in without}
        merged = kept | properties
        self.definitions[title] = base | {"properties": merged, "required": sorted(merged)}
        return self.reference(title)

    def _record(self, cls: type, *, answered: bool) -> Schema:
        name = cls.__name__ if answered else f"{cls.__name__}Input"
        if name not in self.definitions:
            self.definitions[name] = {}  # a record that holds itself ends here
            self.definitions[name] = self._object(cls, answered)
        return self.reference(name)

    def _object(self, cls: Any, answered: bool) -> Schema:
        hints, comments = typing.get_type_hints(cls), comments_of(cls)
        rules = {} if answered else self._rules.get(cls, {})
        properties, required = {}, []
        for field in dataclasses.fields(cls):
            if not field.init:
                continue
            properties[field.name] = self._value(hints[field.name], answered) | dict(rules.get(field.name, {}))
            if comments.get(field.name):
                properties[field.name]["description"] = comments[field.name]
            if answered or (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING):
                required.append(field.name)
        schema: Schema = {"type": "object", "properties": properties, "required": required}
        schema |= {"additionalProperties": False, "description": inspect.getdoc(cls) or ""}
        return schema | dict(rules.get("", {}))

    def _value(self, annotation: Any, answered: bool) -> Schema:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if annotation is Any or annotation is object:
            return {}
        if origin in (types.UnionType, typing.Union):
            return self._optional(arguments, answered)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin is tuple:
            return {"type": "array", "items": self._value(arguments[0], answered)}
        if origin is not None and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self._value(arguments[1], answered)}
        if dataclasses.is_dataclass(annotation):
            return self._record(typing.cast("type", annotation), answered=answered)
        return {"type": _SCALARS[annotation]}

    def _optional(self, options: tuple[Any, ...], answered: bool) -> Schema:
        (only,) = [option for option in options if option is not type(None)]
        schema = self._value(only, answered)
        if isinstance(schema.get("type"), str):
            return schema | {"type": [schema["type"], "null"]}
        return {"anyOf": [schema, {"type": "null"}]}


@functools.cache
def comments_of(cls: type) -> Mapping[str, str]:
    """Return the ``#:`` comments above the fields of a class, by field."""
    found: dict[str, str] = {}
    pending: list[str] = []
    for line in textwrap.dedent(inspect.getsource(cls)).splitlines():
        text = line.strip()
        if text.startswith("#:"):
            pending.append(text.removeprefix("#:").strip())
            continue
        if match := _FIELD.match(line):
            found[match[1]] = " ".join(pending)
        pending = []
    return found
