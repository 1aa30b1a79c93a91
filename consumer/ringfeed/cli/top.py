"""`ringfeed top`: the rings live, with rates, each from two looks."""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TextIO

from ringfeed.cli.status import LaneStatus, RingStatus, by_pass, ring_status
from ringfeed.errors import RingfeedError
from ringfeed.shm.descriptor import ring_names
from ringfeed.text import one_line

_BAR_CELLS: Final = 24
_OTHER_SCREEN, _FORMER_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


@dataclass(frozen=True, slots=True)
class Look:
    """The rings at one moment.

    Attributes:
        at_s: seconds, monotonic.
        missing: why a ring is not among them.
    """

    at_s: float
    rings: dict[str, RingStatus]
    missing: list[str]


def look(names: list[str], at_s: float) -> Look:
    """Look at these rings, or at all where none is named."""
    rings, missing = {}, []
    try:
        names = names or ring_names()
    except RingfeedError as error:
        missing.append(str(error))
    for name in names:
        try:
            rings[name] = ring_status(name)
        except (RingfeedError, ValueError) as error:
            missing.append(str(error))
    return Look(at_s, rings, missing)


def frame(before: Look | None, now: Look) -> list[str]:
    """The screen's lines; without rates where there is no look before, or it was at another daemon."""
    lines = []
    for name, status in now.rings.items():
        former = before.rings.get(name) if before else None
        if former is not None and former.uptime_s > status.uptime_s:
            former = None  # another daemon since then: its counts begin anew
        seconds = now.at_s - before.at_s if before else 0.0
        lines += [*_ring(former, status, seconds), ""]
    lines += now.missing
    if not lines:
        lines = ["No ring is served on this machine; waiting for one."]
    return [one_line(line) for line in lines]


def _ring(former: RingStatus | None, status: RingStatus, seconds: float) -> Iterator[str]:
    def rate(count: Callable[[RingStatus], float], unit: str, digits: int = 0) -> str:
        if former is None or seconds <= 0:
            return f"- {unit}/s"
        return f"{(count(status) - count(former)) / seconds:,.{digits}f} {unit}/s"

    yield f"{status.headline}   {status.root}"
    cells = _BAR_CELLS * min(status.filled_slots, status.slots) // status.slots
    bar = "#" * cells + "." * (_BAR_CELLS - cells)
    place = f"epoch {status.epoch}, position {status.position:,} of {status.epoch_length:,}"
    yield f"  slots   [{bar}] {status.filled_slots}/{status.slots}   {place}"
    rates = [
        rate(lambda s: s.decoded_pairs, "pairs"),
        rate(lambda s: s.downloaded_bytes / 1e6, "MB", 1),
        rate(lambda s: s.fetch_retries, "retries"),
    ]
    yield f"  source  {', '.join(rates)}; {status.failed_pairs} failed; {status.workers} workers"
    yield f"  {status.verdict.sentence}"
    if status.consumers:
        yield f"  {'reader':<32} {'pid':>8} {'batches/s':>10} {'pairs/s':>9} {'holds':>7} {'waits':>6}"
    for group, lanes in by_pass(status.consumers):
        for lane in lanes:
            yield _reader(former, group, lane, seconds)


def _reader(former: RingStatus | None, group: str, lane: LaneStatus, seconds: float) -> str:
    """One reader's line. ``waits`` is the part of the time that it spent waiting for batches."""
    known = (each for each in (former.consumers if former else ()) if (each.lane, each.pid) == (lane.lane, lane.pid))
    before = next(known, None)
    batches = waits = "-"
    pairs = "-"
    if before is not None and seconds > 0 and lane.batches >= before.batches:
        per_second = (lane.batches - before.batches) / seconds
        batches, pairs = f"{per_second:,.1f}", f"{per_second * lane.batch_size:,.0f}"
        waits = f"{min(1.0, max(0.0, lane.waited_s - before.waited_s) / seconds):.0%}"
    who = f"{group} {lane.rank}/{lane.world_size}"
    return f"  {who:<32} {lane.pid:>8} {batches:>10} {pairs:>9} {lane.held_pairs:>7} {waits:>6}"


def watch(names: list[str], *, interval_s: float, count: int | None, out: TextIO = sys.stdout) -> None:
    """Show a frame every ``interval_s``; ``count`` of them, or until Ctrl-C. Draws over the last one on a terminal."""
    screen = _screen(out) if out.isatty() else contextlib.nullcontext()
    before: Look | None = None
    shown = 0
    with contextlib.suppress(KeyboardInterrupt), screen:
        while True:
            now = look(names, time.monotonic())
            _show(frame(before, now), out)
            before = now
            shown += 1
            if shown == count:
                return
            time.sleep(interval_s)


@contextlib.contextmanager
def _screen(out: TextIO) -> Iterator[None]:
    out.write(_OTHER_SCREEN)
    try:
        yield
    finally:
        out.write(_FORMER_SCREEN)
        out.flush()


def fitted(line: str, columns: int) -> list[str]:
    """Return a line as lines of at most ``columns`` characters; what follows the first is indented further."""
    if len(line) <= columns:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, max(columns, len(indent) + 8), subsequent_indent=indent)


def _show(lines: list[str], out: TextIO) -> None:
    if out.isatty():
        size = shutil.get_terminal_size()
        wrapped = [part for line in lines for part in fitted(line, size.columns)]
        shown = [line + _REST_OF_LINE for line in wrapped[: size.lines - 1]]
        out.write(_HOME + "\n".join(shown) + "\n" + _REST_OF_SCREEN)
    else:
        out.write("\n".join(lines) + "\n")
    out.flush()
