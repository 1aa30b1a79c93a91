"""Standard input, output and error of the daemon: what becomes of them does not stop it.

A line that cannot be written now is left out: the reader of a pipe has gone or does not read, a disk is full, a
terminal is stopped with Ctrl-S or closed.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import IO, Final, cast

_STDIN, _STDOUT, _STDERR = range(3)

PATIENCE_S: Final = 0.2
"""How long a line waits for a reader that is slow; not again until it reads on."""

_ATOMIC_BYTES: Final = select.PIPE_BUF
"""So many bytes do not block where there is room at all."""


def open_missing() -> None:
    """Put /dev/null in the place of closed standard streams; else the next files opened would be taken for them."""
    for fd in (_STDIN, _STDOUT, _STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    sys.stdin = sys.stdin or _text(_STDIN, "r")
    sys.stdout = sys.stdout or _text(_STDOUT, "w")
    sys.stderr = sys.stderr or _text(_STDERR, "w")


def _text(fd: int, mode: str) -> IO[str]:
    return open(fd, mode, closefd=False, encoding="utf-8", errors="backslashreplace")


def write_lines_only() -> None:
    """Have all that is printed, by whatever, written as the daemon's own lines are."""
    sys.stdout, sys.stderr = cast("IO[str]", STDOUT), cast("IO[str]", STDERR)


class LineStream:
    """Writes whole lines to a descriptor, at once or not at all; has what `print` and `logging` need of a file."""

    def __init__(self, fd: int) -> None:
        """Write to ``fd``, and leave it open at the end."""
        self._fd = fd
        self._begun = ""
        self._left_out = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def __repr__(self) -> str:
        return f"LineStream({self._fd}, {self._left_out} lines left out)"

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Return whether a person looks at it."""
        return os.isatty(self._fd)

    def write(self, text: str) -> int:
        """Write the line that ends with ``text``, or keep its beginning for later; returns the length of ``text``."""
        self._begun += text
        if text.endswith("\n"):
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what was begun, or leave it out."""
        data, self._begun = self._begun.encode(errors="backslashreplace"), ""
        if not data:
            return
        if self._left_out:
            data = f"({self._left_out} lines could not be written)\n".encode() + data
        if self._write(data, 0.0 if self._left_out else PATIENCE_S):
            self._left_out = 0
        else:
            self._left_out += 1

    def _write(self, data: bytes, patience_s: float) -> bool:
        with contextlib.suppress(OSError):
            while data:
                if not self._poll.poll(1000 * patience_s):
                    return False
                data = data[os.write(self._fd, data[:_ATOMIC_BYTES]) :]
            return True
        return False


STDOUT: Final = LineStream(_STDOUT)
STDERR: Final = LineStream(_STDERR)
