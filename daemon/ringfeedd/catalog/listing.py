"""From two listings to one catalog: which objects belong together, in arrays and without an object for each of them."""

from __future__ import annotations

import asyncio
import heapq
from array import array
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ringfeedd.catalog.catalog import MAX_PAIRS, Catalog, Incomplete, Named, ObjectColumns
from ringfeedd.catalog.ids import IdTable, id_hash
from ringfeedd.catalog.suggest import no_pairs_sentence
from ringfeedd.catalog.templates import MAX_ID_BYTES, KeyTemplate, KeyTemplates, Match
from ringfeedd.errors import StartError
from ringfeedd.storage.base import ObjectInfo, Source, SourceError
from ringfeedd.storage.skipped import Kind, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from ringfeedd.catalog.ids import Hashes, Rows

NAMED = 20
"""So many names of each kind of incomplete pairs are kept."""

MAX_SPELLINGS = 256
"""Spellings of extensions (.jpg, .JPG, .Jpg, ...): their index is one byte."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the listing has come: matching objects seen so far."""

    images: int
    labels: int


async def build_catalog(
    source: Source, templates: KeyTemplates, on_progress: Callable[[Progress], None] = lambda _progress: None
) -> Catalog:
    """List the source, match images with labels by id, and keep what is complete.

    Images and labels are listed at the same time; once, where one prefix holds the other. `on_progress` is called
    after each page.

    Raises:
        StoreDownError: the store does not answer.
        StartError: the listing failed, or there is no pair; then the sentence names the nearest look-alike layout.
    """
    images, labels = _Side(templates.images), _Side(templates.labels)
    skipped = Skipped()

    async def list_prefix(prefix: str) -> None:
        left_out = Skipped(templates.prefixes)  # one for each listing: a folder's are made in threads of their own
        async for page in source.list_pages(prefix, left_out):
            for info in page:
                image, label = templates.match(info.name)
                if image is None and label is None:
                    left_out.add(Kind.OTHER, info.name)
                if image is not None:
                    images.add(image, info)
                if label is not None:
                    labels.add(label, info)
            on_progress(Progress(len(images), len(labels)))
        skipped.update(left_out)

    tasks = [asyncio.create_task(list_prefix(prefix)) for prefix in templates.listed_prefixes]
    try:
        await asyncio.gather(*tasks)
    except SourceError as error:
        raise error.start_error() from error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    progress = Progress(len(images), len(labels))
    catalog = _join(images, labels, skipped)
    if not len(catalog):
        await _refuse_empty(source, templates, catalog.incomplete, partial(on_progress, progress))
    return catalog


async def _refuse_empty(
    source: Source, templates: KeyTemplates, incomplete: Incomplete, on_page: Callable[[], None]
) -> None:
    """Raise the error for a root without pairs; `on_page` is called while it is looked at once more."""
    try:
        sentence = await no_pairs_sentence(source, templates, incomplete, on_page)
    except SourceError as error:
        raise error.start_error() from error
    raise StartError(sentence)


class _Side:
    """The images, or the labels, as they come in from the listing.

    Only the images' ids become the catalog's. The labels' serve to name those without an image.
    """

    def __init__(self, template: KeyTemplate) -> None:
        self.template = template
        self.suffixes: dict[str, int] = {}
        self._ranks: list[int] = []
        self._hash, self._size, self._generation = array("Q"), array("Q"), array("Q")
        self._crc32c, self._has_crc32c, self._suffix = array("I"), bytearray(), bytearray()
        self._length, self._ids = array("H"), bytearray()
        self._last = b""
        self.in_order = True
        self.unusable, self.unusable_names = 0, list[str]()

    def __len__(self) -> int:
        return len(self._hash)

    def add(self, match: Match, info: ObjectInfo) -> None:
        """Take in one object; one whose id cannot be used is counted and named."""
        try:
            pair_id = match.id.encode()
        except UnicodeEncodeError:  # a file name of other bytes than UTF-8
            return self._refuse(info)
        suffix = self.suffixes.get(match.suffix)
        if suffix is None:
            suffix = self.suffixes[match.suffix] = len(self.suffixes)
            self._ranks.append(match.rank)
        if len(pair_id) > MAX_ID_BYTES or suffix >= MAX_SPELLINGS:
            return self._refuse(info)
        self.in_order &= pair_id > self._last
        self._last = pair_id
        self._hash.append(id_hash(pair_id))
        self._size.append(info.size)
        self._generation.append(info.generation)
        self._crc32c.append(info.crc32c or 0)
        self._has_crc32c.append(info.crc32c is not None)
        self._suffix.append(suffix)
        self._length.append(len(pair_id))
        self._ids += pair_id
        return None

    def distinct(self) -> tuple[Rows, Rows]:
        """The rows to be used, in the order of their hashes, one for each hash; and the rows passed over.

        Two ids of one hash count as the same id. That happens once in 10 million sets of a million pairs, and costs
        one pair there.
        """
        hashes = self.hashes
        rows = np.lexsort((self._preference()[np.frombuffer(self._suffix, np.uint8)], hashes))
        first = np.ones(len(rows), np.bool_)
        first[1:] = hashes[rows[1:]] != hashes[rows[:-1]]
        return rows[first], rows[~first]

    @property
    def hashes(self) -> Hashes:
        """(rows,) uint64."""
        return np.frombuffer(self._hash, np.uint64)

    def columns(self) -> ObjectColumns:
        """The metadata of all rows, as views of what was collected."""
        return ObjectColumns(
            template=self.template,
            suffixes=tuple(self.suffixes),
            size=np.frombuffer(self._size, np.uint64),
            generation=np.frombuffer(self._generation, np.uint64),
            crc32c=np.frombuffer(self._crc32c, np.uint32),
            has_crc32c=np.frombuffer(self._has_crc32c, np.bool_),
            suffix=np.frombuffer(self._suffix, np.uint8),
        )

    def let_go_metadata(self) -> None:
        """Drop the metadata, which was taken: 22 MB of a million rows."""
        self._hash, self._size, self._generation, self._crc32c = array("Q"), array("Q"), array("Q"), array("I")
        self._has_crc32c, self._suffix = bytearray(), bytearray()

    def ids(self) -> IdTable:
        """All ids, in the order in which they were listed."""
        return IdTable.packed(self._ids, np.frombuffer(self._length, np.uint16))

    def let_go_ids(self) -> None:
        """Drop the ids, which are not needed or were taken."""
        self._length, self._ids = array("H"), bytearray()

    def names(self, rows: Rows) -> Iterator[tuple[bytes, str]]:
        """The ids in UTF-8 and the names of these rows."""
        ids, suffixes = self.ids(), tuple(self.suffixes)
        for row in rows.tolist():
            pair_id = ids.encoded(row)
            yield pair_id, self.template.name(pair_id.decode(), suffixes[self._suffix[row]])

    def _preference(self) -> npt.NDArray[np.uint16]:
        """For each spelling of an extension its place among all: the template's order, then lower case, then bytes."""
        spellings = list(self.suffixes)
        best_first = sorted(spellings, key=lambda one: (self._ranks[self.suffixes[one]], one != one.lower(), one))
        return np.array([best_first.index(one) for one in spellings], np.uint16)

    def _refuse(self, info: ObjectInfo) -> None:
        self.unusable += 1
        if len(self.unusable_names) < NAMED:
            self.unusable_names.append(info.name.encode(errors="backslashreplace").decode()[:200])


def _join(images: _Side, labels: _Side, skipped: Skipped) -> Catalog:
    """The pairs of both sides, and what is left over."""
    image_rows, image_doubles = images.distinct()
    label_rows, label_doubles = labels.distinct()
    image_hashes, label_hashes = images.hashes[image_rows], labels.hashes[label_rows]
    found = np.searchsorted(label_hashes, image_hashes)
    matched = found < len(label_hashes)
    matched[matched] = label_hashes[found[matched]] == image_hashes[matched]
    left_over = np.ones(len(label_rows), np.bool_)
    left_over[found[matched]] = False
    incomplete = Incomplete(
        _named((images, image_rows[~matched])),
        _named((labels, label_rows[left_over])),
        _named((images, image_doubles), (labels, label_doubles)),
        Named(images.unusable + labels.unusable, tuple((images.unusable_names + labels.unusable_names)[:NAMED])),
        tuple(
            (f"skipped {kind}", Named(skipped.counts[kind], tuple(names)))
            for kind, names in sorted(skipped.names.items())
        ),
    )
    image_rows, label_rows = image_rows[matched], label_rows[found[matched]]
    if len(image_rows) > MAX_PAIRS:
        raise StartError(f"There are {len(image_rows):,} pairs, and a catalog holds {MAX_PAIRS:,}; split the root.")
    # What is not needed any more is released at once: this is where a start takes the most memory.
    del image_doubles, label_doubles, image_hashes, label_hashes, found, matched, left_over

    # from the order of hashes back to the order of the listing, which for a bucket is nearly that of the ids
    order = np.argsort(image_rows)
    image_rows, label_rows = image_rows[order], label_rows[order]
    label_columns = labels.columns().take(label_rows)
    labels.let_go_metadata()
    labels.let_go_ids()
    del order, label_rows
    hashes, image_columns = images.hashes[image_rows], images.columns().take(image_rows)
    images.let_go_metadata()
    ids = images.ids()
    images.let_go_ids()
    if len(image_rows) < len(ids):
        ids = ids.take(image_rows)
    if not images.in_order:
        order = ids.order()
        ids, hashes = ids.take(order), hashes[order]
        image_columns, label_columns = image_columns.take(order), label_columns.take(order)
    return Catalog(ids, hashes, image_columns, label_columns, incomplete)


def _named(*parts: tuple[_Side, Rows]) -> Named:
    """How many rows, and the names of the first in the order of their ids."""
    names = (name for side, rows in parts for name in side.names(rows))
    return Named(sum(len(rows) for _, rows in parts), tuple(name for _, name in heapq.nsmallest(NAMED, names)))
