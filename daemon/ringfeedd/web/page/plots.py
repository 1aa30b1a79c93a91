"""The card with what the ring did in the last quarter of an hour."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from ringfeed.cli.report import RingStatus
from ringfeed.text import count
from ringfeedd.web.page.cards import card, group_colours
from ringfeedd.web.page.charts import Series, plot
from ringfeedd.web.page.history import CAUSES, POINT_S, History, Rates
from ringfeedd.web.page.markup import Node, tag
from ringfeedd.web.page.words import NONE, number, span


def plots_card(status: RingStatus, history: History, now: Rates | None, *, same: bool = False) -> Node:
    """Draw the history.

    Args:
        now: the rates of now; None where there are none yet.
        same: leave the drawings out, since the page has them.
    """
    there = history.shown()

    def line(name: str, colour: str, *, title: str = "") -> Series:
        return Series(title, history.lines[name][there], colour)

    delivered = [line("delivered", "ok", title="delivered"), line("decoded", "dec", title="decoded")]
    readers, waiting = count(len(status.consumers), "reader"), now.mean_waiting if now else None
    pairs, megabytes, requests = (now.delivered, now.megabytes, now.requests) if now else (None, None, None)
    wait = None if waiting is None else round(100 * waiting)
    filled = plot([line("filled", "c4")], unit="slots", top=status.slots)
    figures = [
        _figure("Delivered", pairs, f"pairs/s to {readers}", plot(delivered, unit="pairs/s")),
        _figure("Downloaded", megabytes, "MB/s", plot([line("megabytes", "c0")], unit="MB/s")),
        _figure("Readers wait", wait, "% of their time", plot(_readers(history, there), unit="%", top=100)),
        _figure("Filled", status.filled_slots, f"of {status.slots:,} slots", filled),
        _figure("Requests", requests, "/s to the store", plot([line("requests", "c5")], unit="requests/s")),
        _retries(history, now, there),
    ]
    times = [None if np.isnan(t) else round(t) for t in history.times[there].tolist()]
    ago = span(len(times) * POINT_S)
    if same:
        for drawing in (figure[-1] for figure in figures):
            drawing.clear()
            drawing.attrib |= {"class": "plot", "data-same": ""}
    return card(
        "w8",
        f"Last {ago}",
        tag("div", *figures, class_="plots"),
        tag("div", tag("span", f"{ago} ago"), tag("span", "now"), class_="axis"),
        tag("i", hidden="", data_times=json.dumps(times, separators=(",", ":"))),
        id="plots",
    )


def _readers(history: History, there: slice) -> Sequence[Series]:
    colours = group_colours(group for group, _ in history.waiting)
    return [
        Series(f"{group} rank {rank}", 100 * line[there], colours[group])
        for (group, rank), line in sorted(history.waiting.items())
    ]


def _retries(history: History, now: Rates | None, there: slice) -> Node:
    causes = {cause: history.lines[cause][there] for cause in CAUSES}
    lines = [
        Series(cause, line, f"c{number_of}")
        for number_of, (cause, line) in enumerate(causes.items())
        if np.nansum(line) > 0
    ]
    nothing = [Series("", causes["other"], "c3")]
    now_by_cause = {cause: rate for cause, rate in now.retries.items() if rate >= 0.005} if now else {}
    words = ", ".join(f"{cause} {number(rate)}" for cause, rate in now_by_cause.items())
    return _figure(
        "Retries",
        sum(now.retries.values()) if now else None,
        f"/s: {words}" if words else "/s",
        plot(lines or nothing, unit="retries/s", stacked=bool(lines)),
    )


def _figure(title: str, value: float | None, unit: str, drawing: Node) -> Node:
    shown = NONE if value is None else number(value)
    return tag("div", tag("h3", title), tag("p", tag("b", shown), " ", tag("span", unit)), drawing)
