"""What the page shows of the rings, looked at seldom enough that any number of clients costs the daemon little."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

from ringfeedd.web.page.document import Shown, page_parts, status_page
from ringfeedd.web.page.gallery import Gallery
from ringfeedd.web.page.history import POINT_S, Recorder
from ringfeedd.web.page.markup import html
from ringfeedd.web.snapshot import RingSnapshot, Watched, look

LOOK_EVERY_S: Final = 0.1
"""Shortest time between two looks at the rings."""

RENDER_EVERY_S: Final = 0.5
"""Shortest time between two makings of the page."""


class Watch:
    """Looks at the rings for all who ask, and keeps their history."""

    def __init__(self, rings: Callable[[], Sequence[Watched]], machine: str, *, pictures: bool) -> None:
        """Look at nothing yet.

        Args:
            rings: those in service at the moment.
            machine: this machine's name.
            pictures: pixels may be shown.
        """
        self._rings = rings
        self._machine = machine
        self._pictures = pictures
        self.gallery = Gallery()
        self._recorder = Recorder()
        self._looked_at = self._rendered_at = -RENDER_EVERY_S
        self._views_then: list[RingSnapshot] = []
        self._rendered: dict[object, str] = {}
        self._recording: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin the history."""
        self._recording = asyncio.create_task(self._record())

    async def stop(self) -> None:
        """End the history, and what makes pictures."""
        if self._recording is not None:
            self._recording.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._recording
        await self.gallery.close()

    def views(self) -> list[RingSnapshot]:
        """The rings as they were a moment ago at most: many requests cost the daemon no more looks than a few.

        A ring that has come since is looked at: the daemon may be ready a moment after the last look.
        """
        now, rings = time.monotonic(), self._rings()
        if now - self._looked_at >= LOOK_EVERY_S or len(rings) != len(self._views_then):
            self._looked_at, self._views_then = now, [look(ring) for ring in rings]
            self._recorder.look({view.name: view.status for view in self._views_then})
        return self._views_then

    async def page(self, ring: str, *, logged_in: bool) -> str:
        """The page of a ring, or of the first one, made at most `RENDER_EVERY_S` ago.

        Args:
            logged_in: the browser can log out.
        """
        name = await self._asked(ring)
        return self._made(
            ("page", name, logged_in),
            lambda views, shown: status_page(views, self._machine, shown, ring=name, logged_in=logged_in),
        )

    async def live(self, ring: str, *, logged_in: bool, points: str) -> str:
        """The parts of that page that change.

        Args:
            points: how many points of the history the page has, as it says: any text.
        """
        name = await self._asked(ring)
        had = self._recorder.history(name).number
        known = had if had and points == str(had) else -1
        return self._made(
            ("live", name, logged_in, known),
            lambda views, shown: html(
                *page_parts(views, self._machine, shown, ring=name, logged_in=logged_in, points=known)
            ),
        )

    async def _asked(self, ring: str) -> str:
        """The name of the ring that is asked for, of those that there are; its pictures are looked after."""
        rings = self._rings()
        asked = next((one for one in rings if one.name == ring), rings[0] if rings else None)
        if asked is None:
            return ""
        if self._pictures:
            await self.gallery.look(asked)
        return asked.name

    def _made(self, key: object, render: Callable[[list[RingSnapshot], dict[str, Shown]], str]) -> str:
        now = time.monotonic()
        if now - self._rendered_at >= RENDER_EVERY_S:
            self._rendered_at = now
            self._rendered.clear()
        if key not in self._rendered:
            views = self.views()
            self._rendered[key] = render(views, {view.name: self._shown(view) for view in views})
        return self._rendered[key]

    def _shown(self, view: RingSnapshot) -> Shown:
        rates = self._recorder.rates(view.name, view.status) if view.status is not None else None
        pictures = self.gallery.shelf(view.name) if self._pictures else None
        return Shown(self._recorder.history(view.name), rates, pictures)

    async def _record(self) -> None:
        while True:
            self._recorder.point(time.time(), {view.name: view.status for view in self.views()})
            await asyncio.sleep(POINT_S)
