"""The daemon's log on standard error: one line per record, for people or as JSON, with priorities in a journal.

What a bucket or a server puts into a record never makes it two lines. Records that repeat are counted.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from ringfeed.text import count, one_line
from ringfeedd.system.console import STDERR, STDOUT, LineStream

TEXT: Final = "%(levelname)s %(name)s: %(message)s"

BURST: Final = 10
PERIOD_S: Final = 60.0
"""So many lines of one kind are written in so long; further ones are counted."""

_PRIORITIES: Final = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
"""The priorities of syslog, by level."""

_VARYING: Final = re.compile(r"\d+(?:\.\d+)?|'[^']*'|\"[^\"]*\"")
_MOST_KINDS: Final = 1000


class OneLineFormatter(logging.Formatter):
    """Escapes what does not print in a record's message; a traceback below it keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the standard library's name
        """Return the record without its traceback, on one line."""
        return one_line(super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """A JSON object per record: time (RFC 3339, UTC), level, logger, message, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record on one line."""
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, ensure_ascii=True)


class JournalFormatter(logging.Formatter):
    """Begins each line of another formatter with its priority, ``<4>``, as systemd's journal reads it."""

    def __init__(self, inner: logging.Formatter) -> None:
        """Format by ``inner`` first."""
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        return prioritised(self._inner.format(record), record.levelno)


def prioritised(text: str, level: int) -> str:
    """Return a text of which each line begins with a level's priority."""
    priority = next((number for known, number in _PRIORITIES.items() if level >= known), 7)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def in_journal(fd: int) -> bool:
    """Return True if a descriptor writes into systemd's journal, by ``JOURNAL_STREAM``; see systemd.exec(5)."""
    try:
        facts = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{facts.st_dev}:{facts.st_ino}"


@dataclass
class _Kind:
    since: float
    lines: int = 0
    left_out: int = 0
    latest: logging.LogRecord | None = None


class Repeats(logging.Filter):
    """Lets `BURST` records of one kind through in `PERIOD_S`, and counts the others.

    Records are of one kind if they differ only in numbers and quoted words.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without any."""
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the record is to be written."""
        if getattr(record, "summary", False):
            return True
        now = self._clock()
        key = (record.name, record.levelno, _VARYING.sub("#", record.getMessage()))
        kind = self._kinds.get(key)
        if kind is None or (now - kind.since >= PERIOD_S and not kind.left_out):
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds = {known: one for known, one in self._kinds.items() if one.left_out}
            kind = self._kinds[key] = _Kind(now)
        kind.lines += 1
        if kind.lines <= BURST:
            return True
        kind.left_out += 1
        kind.latest = record
        return False

    def due(self, *, end: bool = False) -> list[logging.LogRecord]:
        """Return a record for each kind of which some were left out and whose time is over.

        Args:
            end: the time of all kinds is over.
        """
        now = self._clock()
        found = []
        for key, kind in list(self._kinds.items()):
            if kind.latest is None or not (end or now - kind.since >= PERIOD_S):
                continue
            del self._kinds[key]
            latest = kind.latest
            more = count(kind.left_out, "more line")
            text = f"{more} like this in {now - kind.since:.0f} s; the latest: {latest.getMessage()}"
            record = _record(latest.name, latest.levelno, text)
            record.summary = True
            found.append(record)
        return found


def _record(name: str, level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, text, None, None)


class Log:
    """The log of one daemon, and the sentences that it prints for the person who started it."""

    def __init__(self, out: LineStream = STDOUT, err: LineStream = STDERR) -> None:
        """Prepare; nothing is logged before `begin`."""
        self._out, self._err = out, err
        self._repeats = Repeats()
        self._format = "text"
        self._handler = logging.StreamHandler(err)
        self._handler.addFilter(self._repeats)

    def begin(self, *, level: str, form: str) -> None:
        """Send records to standard error from now on; again after a reload.

        Args:
            level: the least that is written: debug, info, warning or error.
            form: ``text`` or ``json``.
        """
        self._format = form
        formatter: logging.Formatter = JsonFormatter() if form == "json" else OneLineFormatter(TEXT)
        self._handler.setFormatter(JournalFormatter(formatter) if in_journal(self._err.fileno()) else formatter)
        root = logging.getLogger()
        root.setLevel(level.upper())
        if self._handler not in root.handlers:
            root.addHandler(self._handler)

    def say(self, sentence: str) -> None:
        """Print a sentence on standard output; in JSON where the log is."""
        if self._format == "json":
            print(JsonFormatter().format(_record("ringfeedd", logging.INFO, sentence)), file=self._out)
        else:
            print(one_line(sentence), file=self._out)

    def tell_repeats(self, *, end: bool = False) -> None:
        """Write how many lines were left out, where it is time for that."""
        for record in self._repeats.due(end=end):
            self._handler.handle(record)

    def fatal(self, sentence: str) -> None:
        """Write why the daemon ends: as `complain`, or in JSON where the log is."""
        self.tell_repeats(end=True)
        if self._format == "json":
            logging.getLogger("ringfeedd").critical("%s", sentence)
        else:
            complain(sentence)


def complain(sentence: str) -> None:
    """Print why a command ends on standard error, with an error's priority in a journal."""
    line = one_line(f"ringfeed: {sentence}")
    try:
        journal = in_journal(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # a stream of a test, or none
        journal = False
    print(prioritised(line, logging.ERROR) if journal else line, file=sys.stderr)
