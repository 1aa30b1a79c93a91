"""The status page: HTML that reads well without scripts, and is brought up to date by one where they run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import ringfeed
from ringfeed.text import count
from ringfeedd.web.page.gallery import Shelf
from ringfeedd.web.page.history import History, Rates
from ringfeedd.web.page.markup import Node, html, raw, tag
from ringfeedd.web.page.plots import plots_card
from ringfeedd.web.page.sections import (
    details_card,
    failed_card,
    pictures_card,
    readers_card,
    ring_card,
    tone,
    verdict_card,
)
from ringfeedd.web.page.words import span
from ringfeedd.web.snapshot import RingSnapshot

REFRESH_S: Final = 2
"""How often a browser without scripts loads the page again."""

STYLE: Final = Path(__file__).with_name("page.css").read_text("utf-8")
SCRIPT: Final = Path(__file__).with_name("page.js").read_text("utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; img-src 'self'; "
    f"connect-src 'self'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}"
)
"""The page's Content-Security-Policy: only this machine is asked, this one script runs, and this one style applies."""

BUILD: Final = hashlib.sha256((STYLE + SCRIPT).encode()).hexdigest()[:12]
"""Tells a page that was opened before an upgrade that its script is another one."""

ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="5.5" fill="none" '
    'stroke="#8f9bab" stroke-width="3.4"/><path d="M8 2.5a5.5 5.5 0 1 1-5.2 3.7" fill="none" stroke="#12a06a" '
    'stroke-width="3.4"/></svg>'
)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows of a ring besides its view.

    Attributes:
        rates: of now; None where there are none yet.
        pictures: of the newest pairs; None where none may be shown.
    """

    history: History = field(default_factory=History)
    rates: Rates | None = None
    pictures: Shelf | None = None


_NOTHING: Final = Shown()


def status_page(
    views: Sequence[RingSnapshot],
    machine: str,
    shown: Mapping[str, Shown] | None = None,
    *,
    ring: str = "",
    logged_in: bool = False,
) -> str:
    """The whole page.

    Args:
        shown: of each ring, what a view does not say.
        ring: the one that is shown; the first where there is none of this name.
        logged_in: the browser can log out.
    """
    parts = page_parts(views, machine, shown, ring=ring, logged_in=logged_in)
    again = tag("noscript", tag("meta", http_equiv="refresh", content=str(REFRESH_S)))
    return _document(f"Ringfeed on {machine}", *parts, raw("script", SCRIPT), head=again)


def page_parts(
    views: Sequence[RingSnapshot],
    machine: str,
    shown: Mapping[str, Shown] | None = None,
    *,
    ring: str = "",
    logged_in: bool = False,
    points: int = -1,
) -> list[Node]:
    """The header and the main part, which change.

    Args:
        points: of the history that the page has; its plots are left out where there are no more.
    """
    shown = shown or {}
    view = next((each for each in views if each.name == ring), views[0] if views else None)
    tabs = [
        tag(
            "a",
            tag("i", class_=f"dot {tone(each)}"),
            each.name,
            href=f"?ring={each.name}",
            **({"aria_current": "page"} if each is view else {}),
        )
        for each in views
    ]
    status = view.status if view else None
    facts = [f"v{ringfeed.__version__}"]
    if status is not None:
        facts = [status.root, f"up {span(status.uptime_s)}", count(status.workers, "worker"), *facts]
    logout = tag("form", tag("button", "Log out"), method="post", action="logout") if logged_in else None
    header = tag(
        "header",
        tag("h1", "Ringfeed", tag("small", machine)),
        tag("nav", *tabs, class_="tabs") if tabs else None,
        tag("p", " · ".join(facts), class_="facts", title=facts[0]),
        logout,
    )
    notice = tag("p", id="notice", role="status")
    links = [tag("a", name, href=name) for name in ("status.json", "errors.json", "metrics", "healthz")]
    footer = tag("footer", *(part for link in links for part in (link, "  ")))
    if view is None:
        starting = "The daemon is starting: it lists the pairs, and no ring is served yet."
        body: list[Node] = [tag("section", tag("strong", starting), class_="card verdict warn")]
    else:
        body = _ring(view, shown.get(view.name, _NOTHING), points)
    number = shown[view.name].history.number if view and view.name in shown else 0
    main = tag("main", *body, footer, data_build=BUILD, data_points=str(number))
    return [header, notice, main]


def _ring(view: RingSnapshot, shown: Shown, points: int) -> list[Node]:
    status, first = view.status, verdict_card(view, shown.rates)
    failed = failed_card(view.failed)
    if status is None:
        return [each for each in (first, failed) if each is not None]
    parts = [
        first,
        ring_card(view, status, shown.rates),
        plots_card(status, shown.history, shown.rates, same=points == shown.history.number),
        pictures_card(view.name, shown.pictures),
        readers_card(status, shown.rates),
        failed,
        details_card(status),
    ]
    return [each for each in parts if each is not None]


def login_page(machine: str, *, wrong: bool) -> str:
    """The form for the token.

    Args:
        wrong: another one was sent.
    """
    hidden = {"type": "text", "name": "user", "value": "ringfeed", "autocomplete": "username", "hidden": ""}
    form = tag(
        "form",
        tag("h1", "Ringfeed", tag("small", machine)),
        tag("label", "Token", for_="token"),
        tag("input", **hidden),
        tag(
            "input",
            id="token",
            name="token",
            type="password",
            autocomplete="current-password",
            required="",
            autofocus="",
        ),
        tag("p", "This is not the token.", class_="bad", role="alert") if wrong else None,
        tag("button", "Log in"),
        tag("p", "The token is in the daemon's http_token_file."),
        class_="card login",
        method="post",
        action="login",
    )
    return _document(f"Ringfeed on {machine}", tag("main", form))


def _document(title: str, *body: Node, head: Node | None = None) -> str:
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("link", rel="icon", href="icon.svg"),
            raw("style", STYLE),
            head,
        ),
        tag("body", *body),
        lang="en",
    )
    return "<!doctype html>\n" + html(page)
