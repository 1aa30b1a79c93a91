"""Kinds of settings: what a value of each must be, how it is read from TOML or from a text, and how it is written."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from ringfeed.cli.arguments import out_of_range
from ringfeedd.config.units import parse_duration, parse_size

_TRUE: Final = ("true", "yes", "on", "1")
_FALSE: Final = ("false", "no", "off", "0")

_INTEGER_BITS: Final = 64
"""The size of TOML's integers."""


class MustBeError(ValueError):
    """A value that a setting cannot have; the message is the end of a sentence: ``must be at least 2``."""


class FormError(MustBeError):
    """A value of another kind than the setting's: a word for a number, an unknown choice."""


class Kind(Protocol):
    """The kind of a setting's values."""

    @property
    def metavar(self) -> str:
        """What stands for a value in ``--help``."""
        ...

    @property
    def named(self) -> str:
        """The kind in words, e.g. ``a whole number``."""
        ...

    @property
    def bounds(self) -> str:
        """Which of them are possible, e.g. ``2 to 1024``; empty: all."""
        ...

    def read(self, value: object, *, from_text: bool) -> Any:  # noqa: ANN401  # each kind has its own type
        """Return the value that a setting gets.

        Args:
            value: of a TOML file or a program.
            from_text: whether a text may stand for a number or a truth value, as on a command line.

        Raises:
            MustBeError: the setting cannot have it.
            ValueError: the same, with a sentence of its own.
        """
        ...


def literal(value: object) -> str:
    """Return a value as TOML writes it."""
    match value:
        case None:
            written = '""'
        case bool():
            written = str(value).lower()
        case str():
            written = json.dumps(str(value), ensure_ascii=False)
        case dict():
            written = "{...}"
        case list():
            written = "[...]"
        case int() if value.bit_length() > _INTEGER_BITS:
            written = hex(value)  # Python writes no decimals of thousands of digits
        case _:
            written = repr(value)
    return written


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds."""

    least: int = 0
    most: int | None = None
    metavar: str = "N"
    named: str = "a whole number"

    @property
    def bounds(self) -> str:
        """See `Kind`."""
        return f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"

    def read(self, value: object, *, from_text: bool) -> int:
        """See `Kind`."""
        if from_text and isinstance(value, str):
            value = _converted(int, value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise FormError(f"must be {self.named}")
        if why := out_of_range(value, least=self.least, most=self.most):
            raise MustBeError(why)
        return value


@dataclass(frozen=True)
class Number:
    """A number within bounds; ``above`` and ``below`` cannot be reached."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    metavar: str = "X"
    named: str = "a number"

    @property
    def bounds(self) -> str:
        """See `Kind`."""
        lower = f"at least {self.least:g}" if self.least is not None else f"more than {self.above:g}"
        upper = f"at most {self.most:g}" if self.most is not None else f"less than {self.below:g}"
        return f"{lower}, {upper}"

    def read(self, value: object, *, from_text: bool) -> float:
        """See `Kind`."""
        if isinstance(value, str):
            value = self._from_text(value, from_text=from_text)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise FormError(f"must be {self.named}")
        if why := out_of_range(value, least=self.least, most=self.most, above=self.above, below=self.below):
            raise MustBeError(why)
        return float(value)

    def _from_text(self, text: str, *, from_text: bool) -> object:
        return _converted(float, text) if from_text else text


@dataclass(frozen=True)
class Duration(Number):
    """Seconds, or a text with units."""

    metavar: str = "S"
    named: str = 'a duration: seconds, or a text like "30s" or "2 min"'

    def _from_text(self, text: str, *, from_text: bool) -> object:  # noqa: ARG002  # units make it a text anywhere
        seconds = parse_duration(text)
        return _converted(float, text) if seconds is None else seconds


@dataclass(frozen=True)
class Size(Whole):
    """Bytes, or a text with units."""

    metavar: str = "SIZE"
    named: str = 'a size: bytes, or a text like "8 GiB"'

    def read(self, value: object, *, from_text: bool) -> int:
        """See `Kind`."""
        if isinstance(value, str) and (size := parse_size(value)) is not None:
            value = size
        return super().read(value, from_text=True if isinstance(value, str) else from_text)


@dataclass(frozen=True)
class Rate(Number):
    """Bytes per second, or a text with units."""

    metavar: str = "RATE"
    named: str = 'a rate: bytes per second, or a text like "2 KiB"'

    def _from_text(self, text: str, *, from_text: bool) -> object:  # noqa: ARG002
        size = parse_size(text)
        return _converted(float, text) if size is None else size


@dataclass(frozen=True)
class Choice:
    """One of some words: the members of an enum, or plain texts."""

    of: type[StrEnum] | tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """All of them."""
        return [str(word) for word in self.of]

    @property
    def metavar(self) -> str:
        """See `Kind`."""
        return f"{{{','.join(self.words)}}}"

    @property
    def named(self) -> str:
        """See `Kind`."""
        return f"one of {', '.join(self.words)}"

    @property
    def bounds(self) -> str:
        """See `Kind`."""
        return ""

    def read(self, value: object, *, from_text: bool) -> str:  # noqa: ARG002  # a text is a text
        """See `Kind`."""
        if not isinstance(value, str) or value not in self.words:
            near = difflib.get_close_matches(value.lower(), self.words, n=1) if isinstance(value, str) else []
            raise FormError(f"must be {self.named}" + (f"; did you mean {near[0]}?" if near else ""))
        return value if isinstance(self.of, tuple) else self.of(value)


@dataclass(frozen=True)
class Switch:
    """True or false."""

    metavar: str = ""
    named: str = "true or false"
    bounds: str = ""

    def read(self, value: object, *, from_text: bool) -> bool:
        """See `Kind`."""
        if from_text and isinstance(value, str) and value.lower() in _TRUE + _FALSE:
            return value.lower() in _TRUE
        if not isinstance(value, bool):
            raise FormError(f"must be {self.named}")
        return value


@dataclass(frozen=True)
class Text:
    """A text.

    Attributes:
        check: returns the text as it is kept; raises ValueError with a sentence.
        example: texts that are accepted, for an error; where a number in quotes is none of them.
    """

    metavar: str
    check: Callable[[str], str] = str
    named: str = "a text"
    bounds: str = ""
    example: str = ""

    def read(self, value: object, *, from_text: bool) -> str:  # noqa: ARG002
        """See `Kind`."""
        if not isinstance(value, str):
            quoted = f", in quotes: {json.dumps(str(value))}" if _scalar(value) else ""
            raise FormError(f"must be {self.named}{f', e.g. {self.example}' if self.example else quoted}")
        return self.check(value)


@dataclass(frozen=True)
class WordOr:
    """A word, such as ``auto``, or a value of another kind."""

    word: str
    kind: Kind

    @property
    def metavar(self) -> str:
        """See `Kind`."""
        return self.kind.metavar

    @property
    def named(self) -> str:
        """See `Kind`."""
        return f"{self.kind.named} or {self.word}"

    @property
    def bounds(self) -> str:
        """See `Kind`."""
        return self.kind.bounds

    def read(self, value: object, *, from_text: bool) -> Any:  # noqa: ANN401  # that of the other kind, or the word
        """See `Kind`."""
        if value == self.word:
            return self.word
        try:
            return self.kind.read(value, from_text=from_text)
        except FormError as error:
            raise FormError(f"must be {self.named}") from error


def _scalar(value: object) -> bool:
    if isinstance(value, float):
        return not math.isnan(value)
    return isinstance(value, bool | int) and value.bit_length() <= _INTEGER_BITS


def _converted(kind: type[int | float], text: str) -> object:
    try:
        return kind(text)
    except ValueError:
        return text
