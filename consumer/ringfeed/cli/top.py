"""`ringfeed top`: the rings live, with rates, each from two looks."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TextIO

from ringfeed.cli.colour import Style, paint, wants_colour
from ringfeed.cli.matching import matching_rings
from ringfeed.cli.report import LaneStatus, RingStatus, by_pass
from ringfeed.cli.screen import (
    HOME,
    OTHER_SCREEN,
    OWN_SCREEN,
    REST_OF_LINE,
    REST_OF_SCREEN,
    Key,
    Keyboard,
    Line,
    fit,
    most_offset,
)
from ringfeed.cli.status import ring_status
from ringfeed.errors import RingfeedError
from ringfeed.shm.descriptor import ring_names
from ringfeed.text import count, one_line

_BAR_CELLS: Final = 24
KEYS: Final = "q quit   r look again   arrows up/down scroll   left/right one ring"


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


def look(words: list[str], at_s: float) -> Look:
    """Look at the rings of these names, or of parts of names; at all where none is given."""
    rings: dict[str, RingStatus] = {}
    missing: list[str] = []
    names: list[str] = []
    try:
        served = ring_names()
        names, missing = matching_rings(words, served) if words else (served, [])
    except RingfeedError as error:
        missing.append(str(error))
    for name in names:
        try:
            rings[name] = ring_status(name)
        except (RingfeedError, ValueError) as error:
            missing.append(str(error))
    return Look(at_s, rings, missing)


def frame(before: Look | None, now: Look) -> list[str]:
    """Return the texts of `view`."""
    return [line.text for line in view(before, now)]


def view(before: Look | None, now: Look, only: str | None = None) -> list[Line]:
    """Return what is shown; without rates where there is no look before, or it was at another daemon.

    Args:
        only: the one ring to show; None: all.
    """
    lines: list[Line] = []
    for name, status in now.rings.items():
        if only is not None and name != only:
            continue
        earlier = before.rings.get(name) if before else None
        if earlier is not None and earlier.uptime_s > status.uptime_s:
            earlier = None  # another daemon since then: its counts begin at 0 again
        seconds = now.at_s - before.at_s if before else 0.0
        lines += [*_ring(earlier, status, seconds), Line("")]
    lines += [Line(sentence, sentence=True, style=Style.WARNING) for sentence in now.missing]
    if not lines:
        lines = [Line("No ring is served on this machine; waiting for one.", sentence=True)]
    return [Line(one_line(line.text), line.sentence, line.style) for line in lines]


def _ring(earlier: RingStatus | None, status: RingStatus, seconds: float) -> Iterator[Line]:
    def rate(number: Callable[[RingStatus], float], unit: str, digits: int = 0) -> str:
        if earlier is None or seconds <= 0:
            return f"- {unit}/s"
        return f"{(number(status) - number(earlier)) / seconds:,.{digits}f} {unit}/s"

    style = Style.GOOD if status.state == "serving" and not status.hangs else Style.BAD
    yield Line(f"{status.headline}   {status.root}", sentence=True, style=style)
    cells = _BAR_CELLS * min(status.filled_slots, status.slots) // status.slots
    bar = "#" * cells + "." * (_BAR_CELLS - cells)
    place = f"epoch {status.epoch}, position {status.position:,} of {status.epoch_length:,}"
    yield Line(f"  slots   [{bar}] {status.filled_slots}/{status.slots}   {place}")
    rates = [
        rate(lambda s: s.decoded_pairs, "pairs"),
        rate(lambda s: s.downloaded_bytes / 1e6, "MB", 1),
        rate(lambda s: s.fetch_retries, "retries"),
    ]
    yield Line(f"  source  {', '.join(rates)}; {status.failed_pairs:,} failed; {count(status.workers, 'worker')}")
    yield Line(f"  {status.verdict.sentence}", sentence=True, style=Style.BOLD)
    if status.consumers:
        heading = f"  {'reader':<32} {'pid':>8} {'batches/s':>10} {'pairs/s':>9} {'holds':>7} {'waits':>6}"
        yield Line(heading, style=Style.DIM)
    for group, lanes in by_pass(status.consumers):
        for lane in lanes:
            yield Line(_reader(earlier, group, lane, seconds))


def _reader(earlier: RingStatus | None, group: str, lane: LaneStatus, seconds: float) -> str:
    """One reader's line. ``waits`` is the part of the time that it spent waiting for batches."""
    known = (each for each in (earlier.consumers if earlier else ()) if (each.lane, each.pid) == (lane.lane, lane.pid))
    before = next(known, None)
    batches = waits = "-"
    pairs = "-"
    if before is not None and seconds > 0 and lane.batches >= before.batches:
        per_second = (lane.batches - before.batches) / seconds
        batches, pairs = f"{per_second:,.1f}", f"{per_second * lane.batch_size:,.0f}"
        waits = f"{min(1.0, max(0.0, lane.waited_s - before.waited_s) / seconds):.0%}"
    who = f"{group} {lane.rank}/{lane.world_size}"
    return f"  {who:<32} {lane.pid:>8} {batches:>10} {pairs:>9} {lane.held_pairs:>7} {waits:>6}"


class Watch:
    """A live view: what is chosen by its keys, and the two latest looks."""

    def __init__(self, words: list[str], out: TextIO) -> None:
        """Begin without a look."""
        self._words, self._out = words, out
        self._before: Look | None = None
        self._now: Look | None = None
        self._only: str | None = None
        self._offset = 0

    def look(self) -> None:
        """Look again."""
        self._before, self._now = self._now, look(self._words, time.monotonic())

    def press(self, key: Key) -> None:
        """Obey a key that scrolls or chooses a ring."""
        rings = [None, *(self._now.rings if self._now else ())]
        at = rings.index(self._only) if self._only in rings else 0
        match key:
            case Key.UP:
                self._offset = max(0, self._offset - 1)
            case Key.DOWN:
                self._offset += 1
            case Key.LEFT:
                self._only, self._offset = rings[(at - 1) % len(rings)], 0
            case Key.RIGHT:
                self._only, self._offset = rings[(at + 1) % len(rings)], 0
            case _:
                pass

    def show(self) -> None:
        """Draw the latest look, over the last one on a terminal."""
        if self._now is None:
            return
        only = self._only if self._only in self._now.rings else None
        lines, out = view(self._before, self._now, only), self._out
        if not out.isatty():
            out.write("".join(f"{line.text}\n" for line in lines))
            out.flush()
            return
        size, colour = shutil.get_terminal_size(), wants_colour(out)
        height = max(1, size.lines - 2)
        self._offset = min(self._offset, most_offset(lines, size.columns, height))
        shown = [*fit(lines, size.columns, height, self._offset), Line(KEYS[: size.columns], style=Style.DIM)]
        painted = [paint(line.text, line.style, colour=colour) + REST_OF_LINE for line in shown]
        out.write(HOME + "\n".join(painted) + "\n" + REST_OF_SCREEN)
        out.flush()


def watch(words: list[str], *, interval_s: float, count: int | None, out: TextIO = sys.stdout) -> None:
    """Show the rings every ``interval_s`` until ``q`` or Ctrl-C.

    Args:
        words: names, or parts of names, of rings; none: all.
        count: so many looks are taken, then it ends; None: no end.
    """
    keyboard, shown = Keyboard(out), Watch(words, out)
    screen = _screen(out, keyboard) if out.isatty() else contextlib.nullcontext()
    looks = 0
    with contextlib.suppress(KeyboardInterrupt), screen:
        while True:
            shown.look()
            shown.show()
            looks += 1
            if looks == count:
                return
            due = time.monotonic() + interval_s
            while (left := due - time.monotonic()) > 0:
                key = keyboard.wait(left)
                if key is Key.QUIT:
                    return
                if key in (None, Key.AGAIN):
                    break
                shown.press(key)
                shown.show()


@contextlib.contextmanager
def _screen(out: TextIO, keyboard: Keyboard) -> Iterator[None]:
    out.write(OTHER_SCREEN)
    try:
        with keyboard.reading():
            yield
    finally:
        out.write(OWN_SCREEN)
        out.flush()
