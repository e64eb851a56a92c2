"""Values of JSON as source text of the kernel's language."""

from __future__ import annotations

import keyword
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import InvalidField


class Language:
    """Writes assignments of values; this one writes Python."""

    name = "Python"
    #: Parsers refuse source that nests brackets much deeper than this.
    max_depth = 64
    true, false, nothing = "True", "False", "None"

    def assignment(self, name: str, value: Any) -> str:
        """Return a line that assigns `value` to `name`.

        Raises
        ------
        InvalidField
            The name is no identifier of the language, or the value cannot be written in it.
        """
        if not self.is_name(name):
            raise InvalidField("parameters", f"an object whose keys are {self.name} identifiers", name)
        return f"{name} = {self.literal(value, f'parameters.{name}')}"

    def literal(self, value: Any, where: str, depth: int = 0) -> str:
        """Return the source of a value; `where` names it in messages."""
        if depth > self.max_depth:
            raise InvalidField(where, f"nested at most {self.max_depth} deep", "a deeper value")
        if isinstance(value, Mapping):
            return self.mapping(
                (self.text(str(key), where), self.literal(item, where, depth + 1)) for key, item in value.items()
            )
        if isinstance(value, list):
            return self.sequence(self.literal(item, where, depth + 1) for item in value)
        if value is None or isinstance(value, bool):
            return {None: self.nothing, True: self.true, False: self.false}[value]
        if isinstance(value, (int, float)):
            return (
                self.number(value, where) if isinstance(value, int) or math.isfinite(value) else self.no_number(value)
            )
        return self.text(str(value), where)

    def is_name(self, name: str) -> bool:
        """Whether the parser takes `name` as an identifier, and as this one."""
        return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name

    def number(self, value: float, where: str) -> str:
        """Return a finite number."""
        return repr(value)

    def no_number(self, value: float) -> str:
        """Return an infinity, or what is no number."""
        return f'float("{value}")'

    def text(self, value: str, where: str) -> str:
        """Return a string."""
        return repr(value)

    def sequence(self, items: Iterable[str]) -> str:
        """Return a list of items that are source already."""
        return f"[{', '.join(items)}]"

    def mapping(self, items: Iterable[tuple[str, str]]) -> str:
        """Return a mapping of keys and values that are source already."""
        return "{" + ", ".join(f"{key}: {item}" for key, item in items) + "}"


class R(Language):
    """Writes R: lists and named lists, whatever they hold."""

    name = "R"
    max_depth = 40
    true, false, nothing = "TRUE", "FALSE", "NULL"
    _NAME = re.compile(r"(?:[A-Za-z]|\.(?![0-9]))[A-Za-z0-9._]*")
    _RESERVED = re.compile(r"if|else|repeat|while|function|for|next|break|TRUE|FALSE|NULL|Inf|NaN|NA|NA_\w+_|in|\.\.\.")

    def is_name(self, name: str) -> bool:
        """Whether the parser takes `name` as an identifier."""
        return bool(self._NAME.fullmatch(name)) and not self._RESERVED.fullmatch(name)

    def number(self, value: float, where: str) -> str:
        """Return a number; R's are doubles."""
        if isinstance(value, int) and abs(value) > 2**53:
            raise InvalidField(where, "a whole number that R holds exactly, up to 2^53", value)
        return repr(value)

    def no_number(self, value: float) -> str:
        """Return an infinity, or what is no number."""
        return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"

    def text(self, value: str, where: str) -> str:
        """Return a string in ASCII, which no locale changes; R's have no null character."""
        if "\0" in value or not value.isascii():
            _check_text(value, where, "R")
        return '"' + "".join(_escaped(character, '\\"') for character in value) + '"'

    def sequence(self, items: Iterable[str]) -> str:
        """Return a list of items that are source already."""
        return f"list({', '.join(items)})"

    def mapping(self, items: Iterable[tuple[str, str]]) -> str:
        """Return a named list; R's parser has no empty names."""
        pairs = list(items)
        if any(key == '""' for key, _ in pairs):
            raise InvalidField("parameters", "without empty keys: R has no such names", "")
        return f"list({', '.join(f'{key} = {item}' for key, item in pairs)})"


class Julia(Language):
    """Writes Julia."""

    name = "Julia"
    true, false, nothing = "true", "false", "nothing"
    _NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z_][A-Za-z0-9_!]*")
    _RESERVED = re.compile(
        r"baremodule|begin|break|catch|const|continue|do|else|elseif|end|export|false|finally|for|function|global|if|"
        r"import|in|isa|let|local|macro|module|quote|return|struct|true|try|using|where|while"
    )

    def is_name(self, name: str) -> bool:
        """Whether the parser takes `name` as an identifier."""
        return bool(self._NAME.fullmatch(name)) and not self._RESERVED.fullmatch(name)

    def no_number(self, value: float) -> str:
        """Return an infinity, or what is no number."""
        return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"

    def text(self, value: str, where: str) -> str:
        """Return a string in which nothing is interpolated."""
        _check_text(value.replace("\0", ""), where, "Julia")
        return '"' + "".join(_escaped(character, '\\"$') for character in value) + '"'

    def mapping(self, items: Iterable[tuple[str, str]]) -> str:
        """Return a dictionary of keys and values that are source already."""
        return "Dict(" + ", ".join(f"{key} => {item}" for key, item in items) + ")"


#: By the language that a kernelspec names, in lower case.
LANGUAGES: Mapping[str, Language] = {"python": Language(), "r": R(), "julia": Julia()}


def _check_text(value: str, where: str, language: str) -> None:
    """Refuse text that is no sequence of characters of Unicode, or that has a null character."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidField(where, f"text that {language} can hold", value)


def _escaped(character: str, special: str) -> str:
    if character in special:
        return "\\" + character
    if " " <= character <= "~":
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 2**16 else f"\\U{ord(character):08x}"
