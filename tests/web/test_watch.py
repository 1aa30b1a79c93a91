"""What requests cost the daemon does not grow with their number, whatever they ask for."""

from __future__ import annotations

import asyncio
import itertools

from ring_fixtures import served_ring

from ringfeedd.web import watch as watches
from ringfeedd.web.watch import Watch


def counted(monkeypatch, name: str) -> list[None]:
    """A list that grows with each call of a function of the module."""
    calls: list[None] = []
    real = getattr(watches, name)

    def call(*arguments, **named):
        calls.append(None)
        return real(*arguments, **named)

    monkeypatch.setattr(watches, name, call)
    return calls


def test_many_requests_share_one_page(monkeypatch):
    monkeypatch.setattr(watches, "RENDER_EVERY_S", 3600)
    monkeypatch.setattr(watches, "LOOK_EVERY_S", 3600)
    pages, parts, looks = (counted(monkeypatch, name) for name in ("status_page", "page_parts", "look"))

    async def story(service) -> None:
        watch = Watch(lambda: [service], "gpu01", pictures=True)
        watch._looked_at = watch._rendered_at = -3600.0
        for number, logged_in in itertools.product(range(50), (False, True)):
            await watch.page(f"no ring {number}", logged_in=logged_in)
            await watch.live(f"no ring {number}", logged_in=logged_in, points=str(number))
        await watch.stop()

    with served_ring() as served:
        asyncio.run(story(served.service))
    assert (len(pages), len(parts), len(looks)) == (2, 2, 1)


def test_plots_are_sent_only_when_they_have_changed():
    async def story(service) -> None:
        watch = Watch(lambda: [service], "gpu01", pictures=False)
        watch.start()
        await asyncio.sleep(0)  # the first point
        fresh = await watch.live(service.name, logged_in=False, points="0")
        same = await watch.live(service.name, logged_in=False, points="1")
        assert 'data-points="1"' in fresh
        assert fresh.count("data-plot=") == 6
        assert same.count('data-same=""') == 6
        assert "data-plot=" not in same
        assert len(same) < len(fresh)
        await watch.stop()

    with served_ring() as served:
        asyncio.run(story(served.service))


def test_a_new_ring_is_seen_at_once(monkeypatch):
    """Also where the last look, a moment ago, found the daemon starting."""
    monkeypatch.setattr(watches, "LOOK_EVERY_S", 3600)
    rings: list[object] = []
    watch = Watch(lambda: rings, "gpu01", pictures=False)
    watch._looked_at = -3600.0
    assert watch.views() == []
    with served_ring() as served:
        rings.append(served.service)
        assert [view.name for view in watch.views()] == [served.name]
