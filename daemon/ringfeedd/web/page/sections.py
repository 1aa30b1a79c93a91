"""The parts of the page about one ring, each a card."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from ringfeed.cli.report import LaneStatus, RingStatus, by_pass
from ringfeed.health.evidence import Bound
from ringfeed.health.verdict import WAITED
from ringfeed.shm.failures import FailedPair, FailedPairs
from ringfeed.text import count
from ringfeedd.web.page.cards import card, group_colours, table
from ringfeedd.web.page.charts import ring_drawing
from ringfeedd.web.page.gallery import Shelf
from ringfeedd.web.page.history import Rates
from ringfeedd.web.page.markup import Node, tag
from ringfeedd.web.page.slots import STATES
from ringfeedd.web.page.words import NONE, number, percent
from ringfeedd.web.snapshot import RingSnapshot

MOST_SHOWN: Final = 50
"""Failed pairs on the page, of those that ``errors.json`` lists."""

_BAD: Final = frozenset({Bound.STORE_DOWN, Bound.DAEMON})
_UNKNOWN: Final = frozenset({Bound.STARTING, Bound.IDLE, Bound.DAEMON})

# The verdict.


def verdict_card(view: RingSnapshot, rates: Rates | None) -> Node:
    """The card that says first what bounds the ring, in the words of `ringfeed status`."""
    status = view.status
    if status is None:
        return card("verdict bad", "", tag("div", tag("strong", view.problem)))
    verdict = status.verdict
    title, _, rest = verdict.sentence.partition(": ")
    store = f"the store {status.store.sentence(status.workers)}" if status.store.unreachable else ""
    more = [text for text in (status.reason, status.hangs, store, status.held_up) if text and text not in rest]
    state = tag("span", status.state, class_=f"tag {'bad' if view.unhealthy else 'ok'}")
    setting = f"{verdict.setting} = {verdict.suggested}" if verdict.suggested is not None else ""
    rest += "." if rest and not rest.endswith(".") else ""
    before, found, after = rest.partition(setting) if setting else (rest, "", "")
    return card(
        f"verdict {tone(view)}",
        "",
        tag("span", percent(_waiting(status)), class_="share", title="of its time the longest waiting reader waits"),
        tag(
            "div",
            tag("strong", f"{title[:1].upper()}{title[1:]}" or "Not measured yet"),
            " ",
            state,
            tag("p", before, tag("code", found) if found else None, after) if rest else None,
            *(tag("p", text, class_="bad") for text in more),
            tag("p", _facts(status, rates)),
        ),
    )


def tone(view: RingSnapshot) -> str:
    """How the ring fares in one word: ``ok``, ``warn`` or ``bad``; a class of the style."""
    status = view.status
    if status is None or view.unhealthy or status.store.unreachable or status.verdict.by in _BAD:
        return "bad"
    return "ok" if status.verdict.well and not status.held_up else "warn"


def _waiting(status: RingStatus) -> float | None:
    """Part of the latest seconds that the longest waiting reader waited; None where that is not known."""
    return None if status.verdict.by in _UNKNOWN else status.verdict.waited


def _facts(status: RingStatus, rates: Rates | None) -> str:
    facts = [count(len(status.consumers), "reader"), f"{status.filled_slots:,} of {status.slots:,} slots filled"]
    if rates is not None:
        facts.append(f"{number(rates.decoded)} pairs/s decoded by {count(status.workers, 'worker')}")
    return " · ".join(facts)


# The ring.


def ring_card(view: RingSnapshot, status: RingStatus, rates: Rates | None) -> Node | None:
    """The card with the ring's slots; None where nothing says what lies in them."""
    if view.slots is None:
        return None
    colours = group_colours(lane.group for lane in status.consumers)
    share = status.position / max(1, status.epoch_length)
    inside = [
        tag("text", number(rates.delivered) if rates else NONE, class_="big", x="150", y="146"),
        tag("text", "pairs/s to readers", class_="small", x="150", y="168"),
        tag("text", f"epoch {status.epoch} · {100 * share:.0f} %", class_="small", x="150", y="192"),
    ]
    legend = [
        tag("span", tag("i", class_=state), f"{state} ", tag("b", f"{view.slots.counts[state]:,}")) for state in STATES
    ]
    ahead = f" · {view.slots.ahead:,} read ahead" if view.slots.ahead else ""
    return card(
        "w4",
        f"Ring · {status.slots:,} slots{ahead}",
        ring_drawing(view.slots, status.consumers, colours, *inside),
        tag("div", *legend, class_="legend"),
    )


# The newest pairs.


def pictures_card(ring: str, pictures: Shelf | None) -> Node | None:
    """The card with the newest pairs; None where they may not be shown, or there is none."""
    if not pictures:
        return None
    figures = []
    for each in pictures:
        file = f"pictures/{ring}/{each.key}"
        caption = f"epoch {each.epoch} · {each.position:,}" + ("" if each.valid else " · replacement")
        figures.append(
            tag(
                "figure",
                tag(
                    "div",
                    tag("img", src=f"{file}-plain.jpg", alt=""),
                    tag("img", src=f"{file}.jpg", alt=f"{each.pair_id}, with its label", class_="overlaid"),
                    class_="stack",
                    tabindex="0",
                ),
                tag("figcaption", tag("b", each.pair_id, title=each.pair_id), tag("span", caption)),
                id=f"pair-{each.key}",  # another pair is another figure: no name is ever above an earlier picture
            )
        )
    note = tag("small", "label in colours; point at a pair to see it alone")
    return card("w12", "Newest pairs, as they lie in the ring", note, tag("div", *figures, class_="gallery"))


# The readers.


def readers_card(status: RingStatus, rates: Rates | None) -> Node | None:
    """The card with a row for each reader; None without one."""
    if not status.consumers:
        return None
    colours = group_colours(lane.group for lane in status.consumers)
    passes = by_pass(status.consumers)
    rows = [_reader(group, lane, colours, rates) for group, lanes in passes for lane in lanes]
    absent = [
        tag("p", lanes[0].absence.sentence(lanes[0].group, lanes[0].world_size), class_="bad")
        for _, lanes in passes
        if lanes[0].absence is not None
    ]
    names = ("group", "rank", "pid", "batches", "batches/s", "pairs/s", "waits", "waited", "holds", "missed", "now")
    return card("w12", "Readers", table(names, rows, kinds={"group": "name"}, numbers=names[3:10]), *absent)


def _reader(group: str, lane: LaneStatus, colours: Mapping[str, str], rates: Rates | None) -> Sequence[Node | str]:
    batches = rates.batches.get(lane.lane) if rates else None
    waiting = rates.waiting.get(lane.lane) if rates else None
    if lane.waiting_s >= 1:
        state = tag("span", f"waits for {lane.waiting_s:.1f} s", class_="tag warn")
    elif batches:
        state = tag("span", "reads", class_="tag ok")
    else:
        state = tag("span", "takes no batch" if batches == 0 else "attached", class_="tag")
    return (
        tag("span", tag("i", class_=f"dot {colours[lane.group]}"), group),
        f"{lane.rank} of {lane.world_size}",
        str(lane.pid),
        f"{lane.batches:,} of {lane.batch_size}",
        NONE if batches is None else number(batches),
        NONE if batches is None else number(batches * lane.batch_size),
        _bar(waiting),
        f"{lane.waited_s:.1f} s",
        f"{lane.held_pairs:,} pairs",
        f"{lane.missed_pairs:,} pairs" if lane.on_lag != "block" else NONE,
        state,
    )


def _bar(share: float | None) -> Node:
    if share is None:
        return tag("span", NONE)
    bar = tag(
        "svg",
        tag("rect", width="48", height="7", rx="3.5", class_="rail"),
        tag("rect", width=f"{48 * share:.1f}", height="7", rx="3.5", class_="warn" if share > WAITED else "ok"),
        class_="bar",
        viewBox="0 0 48 7",
        aria_hidden="true",
    )
    return tag("span", bar, percent(share), class_="share-of-time")


# The failed pairs.


def failed_card(failed: FailedPairs) -> Node | None:
    """The card with the failed pairs by cause; None where none failed."""
    if not failed.pairs:
        return None
    now = time.time()
    by_cause: dict[str, list[FailedPair]] = {}
    for pair in reversed(failed.pairs):
        by_cause.setdefault(pair.cause, []).append(pair)
    rows = []
    for cause, pairs in sorted(by_cause.items(), key=lambda item: -failed.causes.get(item[0], 0)):
        more = f" and {len(pairs) - 1:,} more" if len(pairs) > 1 else ""
        draws = failed.causes.get(cause, len(pairs))
        last = tag("time", _ago(now - pairs[0].last_unix_s), title=_local(pairs[0].last_unix_s))
        rows.append((cause, f"{draws:,}", tag("span", tag("b", pairs[0].pair_id), more), pairs[0].reason, last))
    latest = failed.pairs[: -MOST_SHOWN - 1 : -1]
    listed = [
        (pair.pair_id, _local(pair.last_unix_s), pair.cause, str(pair.attempts), str(pair.times), pair.reason)
        for pair in latest
    ]
    return card(
        "w12",
        f"Failed pairs · {count(failed.failed_draws, 'draw')}",
        table(
            ("cause", "draws", "pairs", "reason of the latest", "last"),
            rows,
            kinds={"cause": "name", "pairs": "long", "reason of the latest": "long"},
        ),
        tag(
            "details",
            tag("summary", f"the latest {count(len(listed), 'pair')}"),
            table(
                ("pair", "last", "cause", "attempts", "times", "reason"),
                listed,
                kinds={"pair": "name", "reason": "long"},
            ),
        ),
    )


def _ago(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"


def _local(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


# Everything else.


def details_card(status: RingStatus) -> Node:
    """The card with what `ringfeed status` says."""
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", text))
        for name, text in {"ring": f"{status.ring}: {status.state}", **status.rows()}.items()
    ]
    return card("w12", "Details", tag("table", *rows, class_="facts"))
