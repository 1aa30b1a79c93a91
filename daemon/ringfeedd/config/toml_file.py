"""A configuration file: its values, the line of each, and every fault of its syntax at once."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ringfeedd.errors import ConfigError
from ringfeedd.system.files import open_at_once

MOST_CONFIG_BYTES: Final = 1 << 17

MOST_LINE_CHARACTERS: Final = 4096
"""A name with thousands of dots takes the parser seconds and gigabytes."""

MOST_DEPTH: Final = 8
"""Of tables in tables. No setting lies deeper than two."""

MOST_FAULTS: Final = 50
"""A file with more faults of syntax is not read as a configuration."""

_AT: Final = re.compile(r" \(at (?:line (\d+), \w+ \d+|[\w ]+)\)$")
_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_ASSIGNMENT: Final = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=\s*(.*)")
_TABLE: Final = re.compile(rf"\s*\[\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*\]")
_BARE: Final = re.compile(r"[^\"'\[{#,\s][^\"#]*")


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong in the file; the sentence does not name the file."""

    line: int
    sentence: str


@dataclass(frozen=True)
class TomlFile:
    """What a file says.

    Attributes:
        values: by dotted name, ``cache.memory``; tables are taken apart, lists are not.
        lines: the line of each name, and of each table, counted from 1.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    faults: list[Fault] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Read a file.

        Raises:
            ConfigError: it cannot be read, is too large, or holds no text.
        """
        try:
            with open(path, "rb", opener=open_at_once) as file:  # Path.open takes no opener
                os.set_blocking(file.fileno(), True)  # a pipe that is being written, as of `--config <(...)`
                data = file.read(MOST_CONFIG_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"could not read the configuration {path}: {error.strerror}") from error
        if len(data) > MOST_CONFIG_BYTES:
            raise ConfigError(f"{path} is larger than a configuration can be, {MOST_CONFIG_BYTES} bytes.")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{path}:{line}: this line is not UTF-8 text") from error
        return cls.parse(path, text)

    @classmethod
    def parse(cls, path: Path, text: str) -> TomlFile:
        """Read a text; a line that is not TOML is a fault, and the others count."""
        lines = [*text.replace("\r\n", "\n").split("\n"), ""]  # the end of the file ends its last line
        faults = _take_out_long(lines)
        while len(faults) < MOST_FAULTS:
            try:
                return cls(path, _flat(tomllib.loads("\n".join(lines))), _lines_of_names(lines), faults)
            except tomllib.TOMLDecodeError as error:
                faults.append(_take_out(lines, str(error)))
            except RecursionError:
                faults.append(_take_out_nested(lines))
        return cls(path, {}, {}, faults)

    def line(self, name: str) -> int:
        """Return the line of a setting; that of its table, or the first, if it cannot be told."""
        while name not in self.lines and "." in name:
            name = name.rpartition(".")[0]
        return self.lines.get(name, 1)


def _take_out_long(lines: list[str]) -> list[Fault]:
    """Empty the lines that are too long to be parsed; returns the faults of the first of them."""
    long = [number for number, line in enumerate(lines, 1) if len(line) > MOST_LINE_CHARACTERS]
    sentence = f"this line is longer than {MOST_LINE_CHARACTERS} characters"
    faults = [Fault(number, f"{sentence}: {_shown(lines[number - 1])}") for number in long[:MOST_FAULTS]]
    for number in long:
        lines[number - 1] = ""
    return faults


def _take_out_nested(lines: list[str]) -> Fault:
    """Empty everything from the line whose lists or tables lie too deep in each other; returns its fault."""
    least, most = 1, len(lines)
    while least < most:
        number = (least + most) // 2
        try:
            tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            least = number + 1
        except RecursionError:
            most = number
        else:
            least = number + 1
    sentence = f"lists and tables lie too deep in each other: {_shown(lines[least - 1])}"
    lines[least - 1 :] = [""] * (len(lines) - least + 1)
    return Fault(least, sentence)


def _take_out(lines: list[str], message: str) -> Fault:
    """Empty the line that a parser complains of; returns its fault."""
    at = _AT.search(message)
    if at is None or at[1] is None:
        number = _unclosed(lines)
        fault = Fault(number, f"a text, list or table begins here and does not end: {_shown(lines[number - 1])}")
        lines[number - 1 :] = [""] * (len(lines) - number + 1)
        return fault
    number = min(int(at[1]), len(lines))
    line = lines[number - 1]
    fault = Fault(number, _sentence(lines, number, message[: at.start()]))
    table = _TABLE.match(line)
    # A table's name is kept, or its settings would look like others.
    lines[number - 1] = f"[{table[1]}]" if table and line.strip() != f"[{table[1]}]" else ""
    return fault


def _sentence(lines: list[str], number: int, message: str) -> str:
    """Return what is wrong with a line, in our own words where the kind of mistake is known."""
    line = lines[number - 1]
    match = _ASSIGNMENT.match(line)
    if match is None and _TABLE.match(line) and "twice" in message:
        return f"{line.strip()} stands in the file twice; write its settings together"
    if match is None:
        return f"{_shown(line)} is not a line of the form NAME = VALUE"
    name, value = match[1], match[2].strip()
    if "overwrite" in message:
        first = _lines_of_names(lines[: number - 1]).get(_unquoted(name))
        return f"{name} is set twice" + (f", first in line {first}" if first else "") + "; keep one of the lines"
    if not value or value.startswith("#"):
        return f"{name} has no value"
    return f"{name} = {_fault_of_value(name, value, message)}"


def _fault_of_value(name: str, value: str, message: str) -> str:
    bare = _BARE.match(value)
    word = bare[0].strip() if bare is not None else ""
    if word.lower() in ("true", "false", "yes", "no", "on", "off", "none", "null"):
        return f"{word}: write true or false in small letters, or a text in quotes"
    if word:
        return f'{_shown(word)}: a text needs quotes: {name} = "{word}"'
    if value[0] in "\"'" and value.count(value[0]) < 2:
        return f"{_shown(value)}: the text has no closing quote"
    return f"{_shown(value)}: the value is not TOML ({message[:1].lower()}{message[1:]})"


def _unclosed(lines: list[str]) -> int:
    """Return the number of the line whose text or list the file's end leaves open."""
    begins = sorted(_lines_of_names(lines).values())[-MOST_FAULTS:] or [1]
    for number in reversed(begins):
        try:
            tomllib.loads("\n".join(lines[: number - 1]))
        except tomllib.TOMLDecodeError as error:
            at = _AT.search(str(error))
            if at is None or at[1] is None:
                continue
        return number
    return begins[0]


def _flat(table: dict[str, Any], prefix: str = "", depth: int = MOST_DEPTH) -> dict[str, Any]:
    """Return values by dotted name; a table that lies deeper than `depth` is a value."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and depth:
            found |= _flat(value, f"{prefix}{name}.", depth - 1) or {f"{prefix}{name}": {}}
        else:
            found[prefix + name] = value
    return found


def _lines_of_names(lines: list[str]) -> dict[str, int]:
    """Return the line of each setting and table, by dotted name; what lies within a text of several lines is none."""
    found: dict[str, int] = {}
    table, quotes = "", ""
    for number, line in enumerate(lines, 1):
        if quotes:
            quotes = "" if quotes in line else quotes
            continue
        if match := _TABLE.match(line):
            table = f"{_unquoted(match[1])}."
            found.setdefault(table[:-1], number)
        elif match := _ASSIGNMENT.match(line):
            found.setdefault(table + _unquoted(match[1]), number)
            quotes = next((q for q in ('"""', "'''") if match[2].startswith(q) and match[2].count(q) == 1), "")
    return found


def _unquoted(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def _shown(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 60 else f"{text[:57]}..."
