"""The trainer's log: what a user reads where a wait takes long."""

from __future__ import annotations

from typing import Final

TELL_AFTER_S: Final = 3.0
"""A wait of which nothing was said for this long is explained: within 5 s, whatever else the process does."""


def warn(message: str, *arguments: object) -> None:
    """Log a warning as ``ringfeed``, at the line that called the caller."""
    import logging  # noqa: PLC0415  # a tenth of what importing this package costs, for a process that never waits

    logging.getLogger("ringfeed").warning(message, *arguments, stacklevel=3)


def inform(message: str, *arguments: object) -> None:
    """Log what a user asked for, likewise."""
    import logging  # noqa: PLC0415  # as above

    logging.getLogger("ringfeed").info(message, *arguments, stacklevel=3)
