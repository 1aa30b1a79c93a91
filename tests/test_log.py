"""The log: one line per record, JSON, priorities in a journal, and repeated lines that are counted."""

from __future__ import annotations

import json
import logging
import os

import pytest

from ringfeedd.log import BURST, PERIOD_S, JsonFormatter, Log, OneLineFormatter, Repeats, in_journal, prioritised
from ringfeedd.ring.failure_log import LINES, SUMMARY_S, FailureLog
from ringfeedd.system.console import LineStream


def record(message, *arguments, level=logging.WARNING, name="ringfeedd.ring"):
    return logging.LogRecord(name, level, __file__, 1, message, arguments, None)


@pytest.fixture
def piped():
    """A log that writes into pipes: (log, read its standard error, read its standard output)."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    log = Log(LineStream(out_write), LineStream(err_write))
    root, level = logging.getLogger(), logging.getLogger().level
    yield log, lambda: os.read(err_read, 1 << 16).decode(), lambda: os.read(out_read, 1 << 16).decode()
    for handler in [handler for handler in root.handlers if handler is log._handler]:
        root.removeHandler(handler)
    root.setLevel(level)
    for fd in (out_read, out_write, err_read, err_write):
        os.close(fd)


def journal_of(fd):
    facts = os.fstat(fd)
    return f"{facts.st_dev}:{facts.st_ino}"


def test_a_json_line_has_time_level_logger_message():
    line = JsonFormatter().format(record("a %s", "b\nc", level=logging.ERROR))
    said = json.loads(line)
    assert "\n" not in line
    assert (said["level"], said["logger"], said["message"]) == ("error", "ringfeedd.ring", "a b\nc")
    assert said["time"].endswith("+00:00")


def test_a_traceback_is_part_of_the_json_line():
    try:
        raise KeyError(3)
    except KeyError:
        import sys  # noqa: PLC0415

        failed = record("failed")
        failed.exc_info = sys.exc_info()
    assert "KeyError: 3" in json.loads(JsonFormatter().format(failed))["exception"]


@pytest.mark.parametrize(("level", "priority"), [("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)])
def test_a_journals_lines_have_their_priority(piped, monkeypatch, level, priority):
    log, errors, _ = piped
    monkeypatch.setenv("JOURNAL_STREAM", journal_of(log._err.fileno()))
    log.begin(level="debug", form="text")
    logging.getLogger("ringfeedd").log(getattr(logging, level), "here")
    assert errors() == f"<{priority}>{level} ringfeedd: here\n"


def test_only_the_journals_own_stream_gets_priorities(piped, monkeypatch):
    """systemd.exec(5): a stream that was redirected to a file or a pipe is another one."""
    log, errors, _ = piped
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not in_journal(log._err.fileno())
    log.begin(level="info", form="text")
    logging.getLogger("ringfeedd").warning("here")
    assert errors() == "WARNING ringfeedd: here\n"


def test_each_line_of_a_traceback_has_the_priority():
    assert prioritised("a\nb", logging.ERROR) == "<3>a\n<3>b"


def test_spoken_lines_are_json_like_the_log(piped):
    log, errors, said = piped
    log.begin(level="warning", form="json")
    log.say("ready: attach to train")
    log.fatal("no room")
    assert json.loads(said())["message"] == "ready: attach to train"
    assert json.loads(errors())["message"] == "no room"
    log.begin(level="warning", form="text")
    log.say("found 3 pairs")
    assert said() == "found 3 pairs\n"


def test_repeated_lines_are_counted_and_told_once():
    now = 0.0
    repeats = Repeats(lambda: now)
    passed = [repeats.filter(record("worker %d died with %s", number, "SIGKILL")) for number in range(50)]
    assert passed == [True] * BURST + [False] * (50 - BURST)
    assert repeats.filter(record("another line")), "it is of another kind"
    assert repeats.due() == []
    now = PERIOD_S
    (summary,) = repeats.due()
    assert summary.getMessage() == f"{50 - BURST} more lines like this in 60 s; the latest: worker 49 died with SIGKILL"
    assert (summary.levelname, summary.name) == ("WARNING", "ringfeedd.ring")
    assert repeats.filter(summary)
    assert repeats.due() == []
    assert repeats.filter(record("worker %d died with %s", 51, "SIGKILL")), "a new period begins"


def test_few_lines_are_never_counted():
    now = 0.0
    repeats = Repeats(lambda: now)
    for minute in range(5):
        now = minute * PERIOD_S
        assert all(repeats.filter(record("hello")) for _ in range(BURST))
        assert repeats.due() == []


def test_omitted_lines_are_counted_at_the_end():
    repeats = Repeats(lambda: 5.0)
    for _ in range(BURST + 1):
        repeats.filter(record("hello"))
    assert [one.getMessage() for one in repeats.due(end=True)] == ["1 more line like this in 0 s; the latest: hello"]


def test_the_tenth_failed_pair_is_logged_last():
    log = FailureLog("train")
    lines = [log.failed(f"p{number}", "it is corrupt", "corrupt", 5.0) for number in range(LINES + 3)]
    assert lines[0] == "pair 'p0' failed to load: it is corrupt"
    assert [line is None for line in lines] == [False] * LINES + [True] * 3
    log.failed("q", "it is missing", "missing", 10.0)
    assert log.summary(5.0 + SUMMARY_S - 1) is None
    said = log.summary(5.0 + SUMMARY_S)
    assert said == "4 more pairs failed to load in 60 s (3 corrupt, 1 missing); `ringfeed errors train` lists them"
    assert log.summary(500.0) is None
    log.failed("r", "", "corrupt", 600.0)
    assert log.summary(601.0, end=True).startswith("1 more pair failed to load in 1 s (1 corrupt)")


def test_a_record_is_one_line_for_people():
    assert OneLineFormatter("%(message)s").format(record("a\nb\x1b[2J")) == "a\\nb\\x1b[2J"
