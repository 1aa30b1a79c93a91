"""Discovery: which pairs there are to serve, and how they are decoded, before a ring can be made."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Final

from ringfeedd.catalog.catalog import Catalog
from ringfeedd.catalog.listing import Progress, build_catalog
from ringfeedd.config import Settings
from ringfeedd.decode.spec import DecodeSpec, Fit
from ringfeedd.errors import StartError
from ringfeedd.recovery.catalogs import Start, find_promised, make_revisions
from ringfeedd.recovery.predecessor import Predecessor
from ringfeedd.storage import LISTING_WAIT_S, Source, open_source
from ringfeedd.supervisor.sizing import Room, has_room
from ringfeedd.supervisor.state import Surroundings
from ringfeedd.supervisor.store_wait import SILENCE_S, StoreWait

START_NOTICE_S: Final = 30.0
"""What the service manager is asked for, again and again, while the listing goes on."""


class Discovery:
    """Asks the store what there is, unless living trainers, or the cache, say what to begin with."""

    def __init__(self, settings: Settings, around: Surroundings, store_wait: StoreWait) -> None:
        """Prepare; `discover` asks."""
        self._settings, self._config = settings, settings.config
        self._around, self._store_wait = around, store_wait
        self._say = around.say

    async def discover(
        self, predecessors: dict[str, list[Predecessor]], *, connections: int
    ) -> tuple[Start, DecodeSpec]:
        """Return what to serve, and how its pairs are decoded.

        Args:
            predecessors: of each split, the previous daemons whose consumers may come.
            connections: of the source.

        Raises:
            StartError: there is nothing to serve, or the store did not answer for too long.
        """
        config = self._config
        start = self._known_start({split: of_split for split, of_split in predecessors.items() if of_split})
        store = replace(
            self._settings.store(connections),
            listing_wait_s=min(LISTING_WAIT_S, max(self._settings.store_wait_s, SILENCE_S)),
        )
        source = await self._store_wait.has(
            lambda: open_source(config.root, replace(store, answered=self._store_wait.has_answered)), is_answer=False
        )
        try:
            if start is None:
                start = await self._listed_start(source)
            self._around.on_listed()
            size = self._settings.pixels or self._promised_size(predecessors)
            size = size or await self._common_size(source, start.catalog)
        finally:
            await source.close()
        return start, self._settings.spec(*size)

    def _known_start(self, predecessors: dict[str, list[Predecessor]]) -> Start | None:
        """Return a start without a listing: the catalogs of living trainers, or as configured; None where none is."""
        config, start = self._config, None
        if predecessors:
            start = find_promised(predecessors, self._settings.cache(), config, self._settings.nodes)
        elif config.catalog == "cached":
            with contextlib.suppress(StartError, StopIteration):
                latest = next(iter(self._settings.cache()))
                start = Start(latest, make_revisions(latest, config, self._settings.nodes))
        if start is not None:
            self._say(f"begins with the {len(start.catalog):,} pairs of an earlier listing of {config.root}")
        return start

    async def _listed_start(self, source: Source) -> Start:
        config = self._config
        self._say(f"listing {config.root}")
        self._around.notifier.extend_timeout(START_NOTICE_S, f"listing {config.root}")
        catalog = await self._store_wait.has(lambda: build_catalog(source, self._settings.templates, self._listed_more))
        self._around.on_listed()  # a progress bar ends before the next line begins
        self._say(f"found {len(catalog):,} pairs under {config.root}")
        for sentence in catalog.incomplete.sentences():
            self._say(f"  {sentence}")
        return Start(catalog, make_revisions(catalog, config, self._settings.nodes), listed=True)

    def _listed_more(self, progress: Progress) -> None:
        self._store_wait.answered()
        self._around.on_progress(progress)
        self._around.notifier.extend_timeout(
            START_NOTICE_S, f"listing: {progress.images:,} images, {progress.labels:,} labels"
        )

    async def _common_size(self, source: Source, catalog: Catalog) -> tuple[int, int]:
        """Height and width of a slot, pixels, by a look at some images."""
        from ringfeedd.supervisor.probe import choose_size, probe_sizes  # noqa: PLC0415  # decoders, where no size is given

        settings, config, room = self._settings, self._config, Room.look()
        rings = list(settings.ring_names.values())[: 2 if config.test_ratio else 1]
        look = partial(probe_sizes, max_pixels=config.max_pixels, exif_orientation=config.exif_orientation)
        looked = await self._store_wait.has(lambda: look(source, catalog))
        size = choose_size(looked, config.fit, lambda size: has_room(settings, settings.spec(*size), rings, room))
        sizes = looked.sizes
        spread = f"{'x'.join(map(str, min(sizes)))} to {'x'.join(map(str, max(sizes)))}"
        self._say(f"looked at {len(sizes)} images of {spread}: slots of {size[0]}x{size[1]}, fit {config.fit}")
        too_large = sum(height * width > size[0] * size[1] for height, width in sizes)
        if config.fit is Fit.NATIVE and too_large:
            self._say(
                f"{too_large} of them are larger than such a slot, and there is no memory for larger slots: such "
                f"pairs are replaced by others; give more memory, set size=, or choose another fit"
            )
        return size

    def _promised_size(self, predecessors: dict[str, list[Predecessor]]) -> tuple[int, int] | None:
        """Height and width of the slots that living trainers read, which a look could find otherwise by now."""
        for former in chain.from_iterable(predecessors.values()):
            height, width, _ = former.descriptor.geometry.image.row_shape
            if former.descriptor.identity == self._settings.identity(size=f"{height}x{width}"):
                return height, width
        return None
