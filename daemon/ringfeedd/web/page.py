"""The status page: plain HTML that reads well without scripts. Built as a tree, so that no text can become markup."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from xml.etree import ElementTree as ET

from ringfeed.cli.status import RingStatus, by_pass
from ringfeed.shm.failures import FailedPairs
from ringfeed.text import one_line
from ringfeedd.web.snapshot import RingView

REFRESH_S: Final = 2
MOST_SHOWN: Final = 50
"""Failed pairs on the page, of those that ``errors.json`` lists."""

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1c2733 }
h1 { font-size: 1.4rem } h2 { font-size: 1.15rem; margin-top: 2rem } h3 { font-size: 1rem; margin-bottom: .3rem }
table { border-collapse: collapse; width: 100% } caption { text-align: left; font-weight: 600; padding: .6rem 0 .2rem }
td, th { text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #dde3ea }
th { font-weight: 500; color: #5a6b7d } td { overflow-wrap: anywhere } meter { width: 12rem }
.bad { color: #b3261e; font-weight: 600 } .well { color: #1b7f4b; font-weight: 600 } footer { color: #5a6b7d }
@media (prefers-color-scheme: dark) { body { background: #12181f; color: #d7dee6 } td, th { border-color: #2b3743 } }
"""

POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    + "'"
)
"""The page's Content-Security-Policy: nothing is loaded, nothing runs, and this one style applies."""


def _tag(kind: str, /, *children: ET.Element | str, **attributes: str) -> ET.Element:
    """An element; texts among its children are made one line that prints, and are escaped when the tree is written."""
    element = ET.Element(kind, {key.rstrip("_"): value for key, value in attributes.items()})
    last: ET.Element | None = None
    for child in children:
        if isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif last is None:
            element.text = (element.text or "") + one_line(child)
        else:
            last.tail = (last.tail or "") + one_line(child)
    return element


def status_page(views: Sequence[RingView], machine: str) -> str:
    """The whole page."""
    style = ET.Element("style")
    style.text = STYLE
    head = _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", name="viewport", content="width=device-width"),
        ET.Element("meta", {"http-equiv": "refresh", "content": str(REFRESH_S)}),
        _tag("title", f"Ringfeed on {machine}"),
        style,
    )
    links = [_tag("a", name, href=name) for name in ("status.json", "errors.json", "metrics", "healthz")]
    footer = _tag("footer", *(part for link in links for part in (link, "  ")))
    body = _tag("body", _tag("h1", f"Ringfeed on {machine}"))
    if not views:
        body.append(_tag("p", "The daemon is starting: it lists the pairs, and no ring is served yet."))
    for view in views:
        body.extend(_ring(view))
    body.append(footer)
    page = _tag("html", head, body, lang="en")
    return "<!doctype html>\n" + ET.tostring(page, encoding="unicode", method="html")


def _ring(view: RingView) -> list[ET.Element]:
    status = view.status
    if status is None:
        return [_tag("h2", view.name), _tag("p", view.problem, class_="bad")]
    state = _tag("span", status.state, class_="bad" if view.ailment else "well")
    parts = [_tag("h2", f"{view.name}: ", state)]
    store = (
        f"the store {status.store.sentence(status.workers)}"
        if status.store.unreachable or status.store.limit_per_s
        else ""
    )
    troubles = (status.reason, status.hangs, store, status.held_up)
    parts += [_tag("p", sentence, class_="bad") for sentence in troubles if sentence]
    meter = _tag("meter", value=str(status.filled_slots), max=str(status.slots))
    slots = _tag("tr", _tag("th", "filled", scope="row"), _tag("td", meter, f" {status.filled_slots}/{status.slots}"))
    rows = [_tag("tr", _tag("th", name, scope="row"), _tag("td", text)) for name, text in status.rows().items()]
    parts.append(_tag("table", slots, *rows))
    if status.consumers:
        parts.append(_readers(status))
    if view.failed.pairs:
        parts.append(_failed(view.failed))
    return parts


def _readers(status: RingStatus) -> ET.Element:
    rows = [
        (
            group,
            f"{lane.rank}/{lane.world_size}",
            str(lane.pid),
            f"{lane.batches} of {lane.batch_size}",
            f"{lane.held_pairs} pairs",
            f"{lane.waited_s:.1f} s" + (f", now for {lane.waiting_s:.1f} s" if lane.waiting_s else ""),
            f"{lane.missed_pairs} pairs" if lane.on_lag != "block" else "",
        )
        for group, lanes in by_pass(status.consumers)
        for lane in lanes
    ]
    return _table("Readers", ("group", "rank", "pid", "batches", "holds", "waited", "missed"), rows)


def _failed(failed: FailedPairs) -> ET.Element:
    rows = [
        (_local(pair.last_unix_s), pair.pair_id, pair.cause, pair.reason, str(pair.attempts), str(pair.times))
        for pair in reversed(failed.pairs[-MOST_SHOWN:])
    ]
    caption = f"Failed pairs: {failed.failed_draws} draws, the latest {len(rows)} pairs"
    return _table(caption, ("last", "pair", "cause", "reason", "attempts", "times"), rows)


def _table(caption: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> ET.Element:
    head = _tag("tr", *(_tag("th", name, scope="col") for name in names))
    return _tag("table", _tag("caption", caption), head, *(_tag("tr", *(_tag("td", c) for c in row)) for row in rows))


def _local(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
