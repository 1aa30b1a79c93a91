"""A terminal that a live view draws on: its keys, and how lines fit on it."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from textwrap import wrap
from typing import Final, TextIO

from ringfeed.cli.colour import Style

OTHER_SCREEN, OWN_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Key(StrEnum):
    """The keys that a live view obeys."""

    QUIT = "q"
    AGAIN = "r"
    UP = "up"
    DOWN = "down"
    LEFT = "left"
    RIGHT = "right"


_KEYS: Final = {
    b"q": Key.QUIT,
    b"Q": Key.QUIT,
    b"\x03": Key.QUIT,
    b"r": Key.AGAIN,
    b"R": Key.AGAIN,
    b" ": Key.AGAIN,
    **{b"\x1b[" + code: key for code, key in ((b"A", Key.UP), (b"B", Key.DOWN), (b"C", Key.RIGHT), (b"D", Key.LEFT))},
    **{b"\x1bO" + code: key for code, key in ((b"A", Key.UP), (b"B", Key.DOWN), (b"C", Key.RIGHT), (b"D", Key.LEFT))},
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a view.

    Attributes:
        sentence: it says what matters: it is wrapped, and stays on the screen, where others are cut or scrolled.
    """

    text: str
    sentence: bool = False
    style: Style = Style.PLAIN


def fit(lines: Sequence[Line], width: int, height: int, offset: int = 0) -> list[Line]:
    """Return what a screen shows of some lines, each no wider than it.

    If all fit, they come in their order. Else the sentences come first, and the others scroll below them.

    Args:
        width, height: of the screen, in characters and lines.
        offset: lines that are scrolled away at the top.
    """
    wrapped = [part for line in lines for part in _wrapped(line, max(1, width))]
    if len(wrapped) <= height:
        return wrapped
    kept = [line for line in wrapped if line.sentence][:height]
    others = [line for line in wrapped if not line.sentence and line.text]
    if len(kept) >= height:  # not even they fit: all scroll together
        kept, others = [], wrapped
    room = height - len(kept)
    offset = min(offset, max(0, len(others) - room))
    return kept + others[offset : offset + room]


def most_offset(lines: Sequence[Line], width: int, height: int) -> int:
    """Return the largest offset with which `fit` shows other lines."""
    wrapped = [part for line in lines for part in _wrapped(line, max(1, width))]
    return max(0, len(wrapped) - height)


def _wrapped(line: Line, width: int) -> list[Line]:
    if not line.sentence or len(line.text) <= width:
        return [Line(line.text[:width], line.sentence, line.style)]
    text = line.text.lstrip()
    lead = " " * min(len(line.text) - len(text), width // 4)
    parts = wrap(text, width, initial_indent=lead, subsequent_indent=f"{lead}  " if width > 20 else "")
    return [Line(part, True, line.style) for part in parts]


class Keyboard:
    """The keys of standard input, if it and the output are a terminal; else none is ever pressed."""

    def __init__(self, out: TextIO, source: TextIO | None = None) -> None:
        """Prepare; see `reading`."""
        self._out, self._source = out, sys.stdin if source is None else source
        self._rest = b""

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Take each key as it is pressed, without echo; Ctrl-C interrupts as ever."""
        if not self._is_terminal():
            yield
            return
        fd = self._source.fileno()
        before = termios.tcgetattr(fd)
        try:
            tty.setcbreak(fd)
            yield
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def wait(self, seconds: float) -> Key | None:
        """Return the next key within some time, or None."""
        if not self._is_terminal():
            time.sleep(seconds)
            return None
        deadline = time.monotonic() + seconds
        while True:
            if (key := self._next()) is not None:
                return key
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._source.fileno()], [], [], left)[0]:
                return None
            read = os.read(self._source.fileno(), 64)
            if not read:  # the terminal is gone
                return Key.QUIT
            self._rest += read

    def _next(self) -> Key | None:
        while self._rest:
            for code, key in _KEYS.items():
                if self._rest.startswith(code):
                    self._rest = self._rest[len(code) :]
                    return key
            if self._rest in (b"\x1b", b"\x1b[", b"\x1bO"):
                return None  # the beginning of an arrow
            self._rest = self._rest[1:]
        return None

    def _is_terminal(self) -> bool:
        try:
            return (
                self._out.isatty()
                and os.isatty(self._source.fileno())
                and os.tcgetpgrp(self._source.fileno()) == os.getpgrp()
            )
        except (OSError, ValueError, AttributeError):
            return False
