"""Colours on a terminal that wants them, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TextIO

_RESET: Final = "\x1b[0m"


class Style(StrEnum):
    """The few styles of the command line."""

    PLAIN = ""
    GOOD = "\x1b[32m"
    WARNING = "\x1b[33m"
    BAD = "\x1b[31m"
    BOLD = "\x1b[1m"
    DIM = "\x1b[2m"


def wants_colour(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return True if a stream is a terminal, and neither ``NO_COLOR`` nor ``TERM=dumb`` speaks against colours."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def paint(text: str, style: Style, *, colour: bool) -> str:
    """Return a text in a style, or as it is without colours."""
    return f"{style}{text}{_RESET}" if colour and style and text else text
