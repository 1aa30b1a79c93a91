"""The drawings of the page, as SVG: the ring's slots, and lines of its history. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ringfeed.cli.report import LaneStatus
from ringfeedd.web.page.markup import Node, tag
from ringfeedd.web.page.slots import STATES, SlotView

_SIZE, _OUTER, _INNER, _CURSORS = 300.0, 124.0, 98.0, 133.0
_MIDDLE = _SIZE / 2
_GAP: Final = 0.14
"""Part of a cell that is left free between it and the next."""

_DOT_STEP: Final = 8.0
"""How far out the next cursor lies where another one is in its place."""

MOST_CURSORS: Final = 64

WIDTH: Final = 360
HEIGHT: Final = 64

_Values = npt.NDArray[Any]


def ring_drawing(view: SlotView, lanes: Iterable[LaneStatus], colours: Mapping[str, str], *inside: Node) -> Node:
    """Draw a ring's slots as a wheel, which is turned so that each slot stays where it is, with the readers' places.

    Args:
        colours: class of each group's readers.
        inside: texts in the middle.
    """
    cells = len(view.cells)
    wheel = [
        tag("path", class_=STATES[state], d=_arc(cell / cells, (cell + 1 - _GAP) / cells))
        for cell, state in enumerate(view.cells)
    ]
    wheel += _cursors(view, sorted(lanes, key=lambda lane: lane.lane)[:MOST_CURSORS], colours)
    turn = view.floor / view.slots
    angle = f"rotate({360 * (turn % 1):.2f} {_MIDDLE:g} {_MIDDLE:g})"
    return tag(
        "svg",
        tag("g", *wheel, class_="wheel", transform=angle, data_turn=f"{turn:.4f}"),
        *inside,
        class_="ring",
        viewBox=f"0 0 {_SIZE:g} {_SIZE:g}",
        role="img",
        aria_label=", ".join(f"{count} {state}" for state, count in view.counts.items()) + " slots",
    )


def _cursors(view: SlotView, lanes: Iterable[LaneStatus], colours: Mapping[str, str]) -> Iterator[Node]:
    placed: dict[int, int] = {}
    for lane in lanes:
        share = min(max(lane.taken - view.floor, 0), view.slots) / view.slots
        there = round(share * 90)
        radius = _CURSORS + _DOT_STEP * min(placed.get(there, 0), 1)
        placed[there] = placed.get(there, 0) + 1
        x, y = _point(radius, share)
        who = f"{lane.group} rank {lane.rank} (pid {lane.pid}): next pair {lane.taken:,}"
        kind = f"cursor {colours.get(lane.group, '')}"
        yield tag("circle", tag("title", who), class_=kind, cx=f"{x:.1f}", cy=f"{y:.1f}", r="5.5")


def _point(radius: float, turn: float) -> tuple[float, float]:
    angle = 2 * math.pi * turn
    return _MIDDLE + radius * math.sin(angle), _MIDDLE - radius * math.cos(angle)


def _arc(begin: float, end: float) -> str:
    (a, b), (c, d) = _point(_OUTER, begin), _point(_OUTER, end)
    (e, f), (g, h) = _point(_INNER, end), _point(_INNER, begin)
    large = int(end - begin > 0.5)
    outer = f"M{a:.1f} {b:.1f}A{_OUTER:g} {_OUTER:g} 0 {large} 1 {c:.1f} {d:.1f}"
    return f"{outer}L{e:.1f} {f:.1f}A{_INNER:g} {_INNER:g} 0 {large} 0 {g:.1f} {h:.1f}Z"


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One line of a plot.

    Attributes:
        values: NaN where there is none.
        colour: a class of the page's style.
    """

    name: str
    values: _Values
    colour: str


def plot(series: Sequence[Series], *, unit: str, top: float | None = None, stacked: bool = False) -> Node:
    """Draw lines from left to right; the area of a single one is filled, or of all of them where stacked.

    Args:
        series: of values at the same times.
        unit: of the values, for those who point at the plot.
        top: the value at the upper edge; None: a little above the largest.
        stacked: each line begins where the one before ends.
    """
    lines = list(_stack(series)) if stacked else [(each, np.zeros_like(each.values), each.values) for each in series]
    largest = max((_largest(upper) for _, _, upper in lines), default=0.0)
    top = top or _above(largest)
    parts: list[Node] = []
    for number, (each, lower, upper) in enumerate(lines):
        if stacked or (number == 0 and len(lines) == 1):
            parts.append(tag("path", class_=f"area {each.colour}", d="".join(_runs(lower, upper, top, closed=True))))
        parts.append(tag("path", class_=f"line {each.colour}", d="".join(_runs(lower, upper, top, closed=False))))
    drawing = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", preserveAspectRatio="none", aria_hidden="true")
    facts = {"unit": unit, "lines": [[each.name, _short(each.values)] for each in series]}
    return tag(
        "div",
        drawing,
        tag("span", f"{top:,.4g}", class_="top"),
        class_="plot",
        data_plot=json.dumps(facts, separators=(",", ":")),
    )


def _stack(series: Iterable[Series]) -> Iterator[tuple[Series, _Values, _Values]]:
    below: _Values | None = None
    for each in series:
        lower = np.zeros_like(each.values) if below is None else below
        below = lower + each.values
        yield each, lower, below


def _largest(values: _Values) -> float:
    there = values[~np.isnan(values)]
    return float(there.max()) if there.size else 0.0


def _above(largest: float) -> float:
    """The smallest of 1, 2, 3, 5, 7.5 times a power of ten above a value."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 7.5, 10, 15) if step * power >= largest * 1.04)


def _runs(lower: _Values, upper: _Values, top: float, *, closed: bool) -> Iterator[str]:
    """Paths over the points that are numbers; a point alone is not drawn."""
    step = WIDTH / max(1, len(upper) - 1)
    there = np.flatnonzero(~np.isnan(upper))
    for run in np.split(there, np.flatnonzero(np.diff(there) > 1) + 1):
        if run.size > 1:
            path = _path("M", run * step, upper[run], top)
            yield path + _path("L", run[::-1] * step, lower[run[::-1]], top) + "Z" if closed else path


def _path(first: str, across: _Values, values: _Values, top: float) -> str:
    points = zip(across.tolist(), values.tolist(), strict=True)
    return first + "L".join(f"{x:.1f} {HEIGHT - (HEIGHT - 2) * min(max(y / top, 0.0), 1.0):.1f}" for x, y in points)


def _short(values: _Values) -> list[float | None]:
    """The values with three digits, None where there is none, for JSON."""
    return [None if math.isnan(value) else float(f"{value:.3g}") for value in values.tolist()]
