"""The daemon's log on standard error: one line for each record, whatever a bucket or a server put into it."""

from __future__ import annotations

import logging

from ringfeed.text import one_line
from ringfeedd.system.console import STDERR


class OneLineFormatter(logging.Formatter):
    """Escapes what does not print in a record's message; a traceback below it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the standard library's name
        """The record without its traceback, on one line."""
        return one_line(super().formatMessage(record))


def log_to_stderr() -> None:
    """Send all records from INFO up to standard error."""
    handler = logging.StreamHandler(STDERR)
    handler.setFormatter(OneLineFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
