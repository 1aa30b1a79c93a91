"""The parser of every command: flags in full, numbers within bounds, errors whose last line is the reason."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, TypeVar

from ringfeed.shm.descriptor import check_ring_name

EXIT_USAGE: Final = 2

_N = TypeVar("_N", int, float)


class CommandParser(argparse.ArgumentParser):
    """A parser whose flags cannot be abbreviated, and whose errors are two short lines, the reason last.

    Attributes:
        groups: heading -> names of commands, if its help shows them in groups.
        renamed: earlier flag -> its name today; the error for it tells the new one.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  # argparse's own
        super().__init__(**{"allow_abbrev": False, **options})
        self.groups: dict[str, list[str]] = {}
        self.renamed: dict[str, str] = {}

    def format_help(self) -> str:
        """Return the help; commands come in their groups, each with its line."""
        subparsers = next((one for one in self._actions if isinstance(one, argparse._SubParsersAction)), None)
        if not self.groups or subparsers is None:
            return super().format_help()
        lines = {action.dest: action.help or "" for action in subparsers._get_subactions()}
        width = max(map(len, lines))
        formatter = self._get_formatter()
        formatter.add_usage("%(prog)s [-h] [--version] COMMAND ...", [], [], "usage: ")
        formatter.add_text(self.description)
        text = formatter.format_help()
        for heading, names in self.groups.items():
            text += "".join((f"\n{heading}:\n", *(f"  {name:<{width}}  {lines[name]}\n" for name in names)))
        return f"{text}\n{self.epilog or ''}\n"

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # noqa: ANN401
        """Parse; what is left over is an error of the command that it was given to."""
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(not_known(rest[0], self._option_string_actions, self.renamed))
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Print where help is, and the reason; end with exit code 2."""
        sys.stderr.write(f"`{self.prog} --help` shows how it is used.\n{self.prog}: {reason(message)}\n")
        sys.exit(EXIT_USAGE)


def not_known(word: str, known: Iterable[str], renamed: Mapping[str, str]) -> str:
    """Return the sentence for a word that no command knows, with the likeliest one that it does."""
    import difflib  # noqa: PLC0415  # for this alone

    flag = word.partition("=")[0]
    if flag in renamed:
        return f"unrecognized argument {word}; it is now called {renamed[flag]}"
    near = difflib.get_close_matches(flag, known, n=1)
    return f"unrecognized argument {word}" + (f"; did you mean {near[0]}?" if near else "")


def reason(message: str) -> str:
    """Return argparse's message as a sentence that begins with the flag and its value."""
    argument, is_choice, rest = message.partition(": invalid choice: ")
    if is_choice:
        value, _, known = rest.replace("'", "").rstrip(")").partition(" (choose from ")
        name = argument.removeprefix("argument ")
        if name == "COMMAND":
            return f"{value} is not a command; there are {known}"
        return f"{name} {value}: must be one of {known}"
    if message.endswith("required: COMMAND"):
        return "no command is given"
    message = re.sub(r"^argument (\S+): (?=expected )", r"\1: ", message)
    return re.sub(r"^argument (\S+): ", r"\1 ", message)


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type of argument: a whole number within bounds."""
    return _bounded(int, "a whole number", least, most)


def number(least: float, most: float) -> Callable[[str], float]:
    """Return a type of argument: a number within bounds."""
    return _bounded(float, "a number", least, most)


def _bounded(convert: Callable[[str], _N], kind: str, least: float, most: float | None) -> Callable[[str], _N]:
    def parse(text: str) -> _N:
        try:
            value = convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text}: must be {kind}") from error
        if why := out_of_range(value, least=least, most=most):
            raise argparse.ArgumentTypeError(f"{text}: {why}")
        return value

    return parse


def ring_name(text: str) -> str:
    """A type of argument: a ring's name."""
    try:
        check_ring_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def any_whole(text: str) -> int:
    """Return a whole number; the caller checks its bounds."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number") from error


def out_of_range(
    value: float,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> str:
    """Return what a number must be, as the end of a sentence; empty where it is that.

    Args:
        least, most: bounds that it may reach.
        above, below: bounds that it may not reach.
    """
    if isinstance(value, float) and math.isnan(value):  # a whole number may be too large for a float
        return "must be a number"
    if least is not None and value < least:
        return f"must be at least {_plain(least)}"
    if above is not None and value <= above:
        return f"must be more than {_plain(above)}"
    if most is not None and value > most:
        return f"must be at most {_plain(most)}"
    if below is not None and value >= below:
        return f"must be less than {_plain(below)}"
    return ""


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"
