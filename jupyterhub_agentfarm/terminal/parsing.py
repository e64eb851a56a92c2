"""The command line as people write it: options anywhere between the positional arguments, mistakes said in a sentence.

traitlets' own loader accepts an option it does not know with a warning, and positional arguments only in one block.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from traitlets import TraitError
from traitlets.config import Application
from traitlets.config.loader import ArgumentError, KVArgParseConfigLoader, _KVArgParser
from traitlets.utils.importstring import import_item

from ..errors import AgentFarmError

#: traitlets' own parsing without its decorator, which logs a mistake and exits.
_parse: Callable[[Application, list[str] | None], None] = inspect.unwrap(Application.parse_command_line)


class UsageError(AgentFarmError):
    """The command was called the wrong way."""

    reason = "usage"

    def __init__(self, message: str, command: str) -> None:
        self.command = command
        super().__init__(f"{message} (see `{command} --help`)")


class _Parser(_KVArgParser):
    """An argparse parser that takes options anywhere and raises instead of exiting."""

    command = "agentfarm"
    #: The option as it is typed, for each trait.
    spelling: ClassVar[dict[str, str]] = {}

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        match = re.fullmatch(r"argument (--?([^\s/:]+))\S*: expected one argument", message)
        if match and match[2] in self.spelling:
            message = f"{self.spelling[match[2]]} needs a value"
        elif match and "." not in match[2]:  # every trait's name has a dot
            message = f"there is no option {match[1]}"
        raise UsageError(message, self.command)


class _Loader(KVArgParseConfigLoader):
    """traitlets' loader, strict about options that it does not know."""

    parser_class = _Parser

    def _handle_unrecognized_alias(self, arg: str) -> NoReturn:
        dashes = "-" if len(arg) == 1 else "--"
        self.parser.error(f"there is no option {dashes}{arg.lstrip('-')}")


class Parsed(Application):
    """An application with strict parsing, short help, and subcommands that are imported when they are called."""

    #: The command as it is typed, as in "agentfarm nodes add".
    command: ClassVar[str] = "agentfarm"
    #: Positional arguments in their order; one in brackets may be left out.
    positionals: ClassVar[tuple[str, ...]] = ()

    aliases = {}
    flags = {}
    subcommands = {}

    def initialize(self, argv: list[str] | None = None) -> None:
        """Read the command line."""
        try:
            _parse(self, argv)
        except (TraitError, ArgumentError) as exc:
            raise UsageError(_sentence(str(exc)), self.command) from exc
        if self.subapp is None:
            self.check_positionals()

    def check_positionals(self) -> None:
        """Refuse too few or too many positional arguments, and subcommands that do not exist.

        Raises
        ------
        UsageError
            It says which is missing or too many.
        """
        given = self.extra_args
        if self.subcommands:
            known = ", ".join(self.subcommands)
            raise UsageError(
                f"there is no command {given[0]!r}: use one of {known}" if given else f"give one of {known}",
                self.command,
            )
        required = [name for name in self.positionals if not name.startswith("[")]
        if len(given) < len(required):
            raise UsageError(f"{required[len(given)]} is missing", self.command)
        if len(given) > len(self.positionals):
            raise UsageError(f"{given[len(self.positionals)]!r} is one argument too many", self.command)

    def argument(self, index: int) -> str | None:
        """Return the positional argument at `index`, or None when it was left out."""
        return self.extra_args[index] if index < len(self.extra_args) else None

    def initialize_subcommand(self, subc: str, argv: list[str] | None = None) -> None:
        """Import the subcommand and give it the rest of the command line."""
        target = self.subcommands[subc][0]
        cls = import_item(target) if isinstance(target, str) else target
        self.subapp = cls(parent=self)
        self.subapp.initialize(argv)

    def start(self) -> None:
        """Start the subcommand."""
        if self.subapp is not None:
            self.subapp.start()

    def _create_loader(self, argv: Any, aliases: Any, flags: Any, classes: Any) -> _Loader:
        loader = _Loader(argv, aliases, flags, classes=classes, log=self.log)
        spelling = {str(target): _spelt(names) for names, target in aliases.items()}
        settings = {"command": self.command, "spelling": spelling}
        loader.parser_class = type("_Parser", (_Parser,), settings)  # type: ignore[assignment]
        return loader

    # ---- help ----

    def print_help(self, classes: bool = False) -> None:
        """Write how the command is called; with `classes` every configurable trait as well."""
        if classes:
            super().print_help(classes)
            return
        print(self.help_text())  # noqa: T201 - help is what was asked for

    def help_text(self) -> str:
        """Return usage, description, subcommands and options."""
        usage = " ".join([self.command, *(["COMMAND"] if self.subcommands else []), *self.positionals, "[OPTIONS]"])
        parts = [f"usage: {usage}", str(self.description).strip()]
        if self.subcommands:
            parts.append(_section("commands", {name: str(entry[1]) for name, entry in self.subcommands.items()}))
        parts.append(_section("options", self._options()))
        if self.examples:
            parts.append("examples:\n" + str(self.examples).rstrip())
        return "\n\n".join(parts)

    def _options(self) -> dict[str, str]:
        """Return each option with the first sentence of its help."""
        options = {}
        traits = {f"{cls.__name__}.{name}": trait for cls in type(self).mro()[:-1] if issubclass(cls, Application)
                  for name, trait in cls.class_traits(config=True).items()}  # fmt: skip
        for names, target in self.aliases.items():
            key, text = (target, None) if isinstance(target, str) else target
            trait = traits.get(key)
            shown = str(text or (trait.help if trait is not None else ""))
            options[f"{_spelt(names)} {key.rpartition('.')[2].upper()}"] = shown
        for names, (_, text) in self.flags.items():
            options[_spelt(names)] = str(text)
        return options | {"-h, --help": "show this"}


def _sentence(message: str) -> str:
    """Return traitlets' complaint about a value in the words of the command line."""
    form = r"The '(\w+)' trait of an? \w+ instance expected (.*), not (?:the \w+ )?(.*?)\.?"
    match = re.fullmatch(form, message, re.DOTALL)
    if match is None:
        return message
    wanted = {"a dict": "key=value", "an int": "a whole number"}.get(match[2], match[2])
    return f"--{match[1].replace('_', '-')} must be {wanted}, not {match[3]}"


def _spelt(names: Any) -> str:
    each = names if isinstance(names, tuple) else (names,)
    return ", ".join(("-" if len(name) == 1 else "--") + name for name in each)


def _section(title: str, entries: dict[str, str]) -> str:
    width = min(34, max(len(name) for name in entries))
    lines = [f"{title}:"]
    for name, text in entries.items():
        wrapped = textwrap.wrap(" ".join(text.split()), 96 - width) or [""]
        head = f"  {name:<{width}}  {wrapped[0]}" if len(name) <= width else f"  {name}\n  {'':<{width}}  {wrapped[0]}"
        lines += [head, *(f"  {'':<{width}}  {more}" for more in wrapped[1:])]
    return "\n".join(lines)
