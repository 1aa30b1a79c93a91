"""The catalog: every pair of the source in the order of its ids, and its two splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np

from ringfeedd.errors import ConfigError
from ringfeedd.storage.base import MAX_OBJECT_BYTES, ObjectInfo

if TYPE_CHECKING:
    import numpy.typing as npt

    from ringfeedd.catalog.ids import Hashes, IdTable, Rows
    from ringfeedd.catalog.templates import KeyTemplate

    Indices: TypeAlias = npt.NDArray[np.uint32]

TRAIN = "train"
TEST = "test"

MAX_PAIRS = 2**32 - 1
"""Indices are uint32."""

COLUMNS = ("size", "generation", "crc32c", "has_crc32c", "suffix")
"""The arrays of `ObjectColumns`."""

_FEW = 8
"""So many pairs are looked up as fast one by one as together."""


class Pair(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An image and its label, as they were listed; made on demand."""

    id: str
    image: ObjectInfo
    label: ObjectInfo


@dataclass(frozen=True, slots=True)
class Split:
    """One part of the catalog.

    Attributes:
        name: ``"train"`` or ``"test"``.
        indices: (pairs,) uint32, ascending, into the catalog.
        fingerprint: 32 hex digits over the ids in this order, and over nothing else: replacing an object's content
            does not change what a resumed job means by a position.
    """

    name: str
    indices: Indices
    fingerprint: str

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, slots=True)
class Named:
    """How many there are of something, and the names of the first few in the order of their ids."""

    count: int = 0
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.names) else ""
        return f"{self.count:,} ({', '.join(self.names)}{more})" if self.count else "0"


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Objects that are in no pair; none of this is fatal.

    Attributes:
        images_without_label: their names.
        labels_without_image: their names.
        duplicates: objects passed over because another one with the same id, and an extension that the template
            prefers, was taken: names of images and labels.
        unusable_ids: the id is longer than 1024 bytes, or not UTF-8, or its extension is one spelling too many.
        skipped: what the listing left out otherwise, by the words for each kind, see `ringfeedd.storage.skipped`.
    """

    images_without_label: Named = Named()
    labels_without_image: Named = Named()
    duplicates: Named = Named()
    unusable_ids: Named = Named()
    skipped: tuple[tuple[str, Named], ...] = ()

    def __bool__(self) -> bool:
        return any(named.count for _, named in self._kinds())

    def sentences(self) -> list[str]:
        """A line for each kind of which there is any."""
        return [f"{kind}: {named}" for kind, named in self._kinds() if named.count]

    def _kinds(self) -> list[tuple[str, Named]]:
        return [
            ("images without a label", self.images_without_label),
            ("labels without an image", self.labels_without_image),
            ("objects passed over for another with the same id", self.duplicates),
            ("objects with an id that cannot be used", self.unusable_ids),
            *self.skipped,
        ]


@dataclass(frozen=True, slots=True)
class ObjectColumns:
    """What is known of the objects of one side, row by row as the ids; 22 bytes an object.

    Attributes:
        template: makes names from ids.
        suffixes: the spellings of extensions that occur; `suffix` points into it.
        size: (pairs,) uint64, bytes.
        generation: (pairs,) uint64.
        crc32c: (pairs,) uint32.
        has_crc32c: (pairs,) bool.
        suffix: (pairs,) uint8.
    """

    template: KeyTemplate
    suffixes: tuple[str, ...]
    size: npt.NDArray[np.uint64]
    generation: npt.NDArray[np.uint64]
    crc32c: npt.NDArray[np.uint32]
    has_crc32c: npt.NDArray[np.bool_]
    suffix: npt.NDArray[np.uint8]

    def info(self, row: int, pair_id: str) -> ObjectInfo:
        """The object of one row."""
        return ObjectInfo(
            self.template.name(pair_id, self.suffixes[self.suffix.item(row)]),
            self.size.item(row),
            self.generation.item(row),
            self.crc32c.item(row) if self.has_crc32c.item(row) else None,
        )

    def infos(self, rows: Rows, pair_ids: list[str]) -> list[ObjectInfo]:
        """`info` of many rows, column by column."""
        prefix, suffixes = self.template.prefix, self.suffixes  # names as `KeyTemplate.name`, without a call for each
        columns = (self.suffix, self.size, self.generation, self.crc32c, self.has_crc32c)
        values = zip(pair_ids, *(column[rows].tolist() for column in columns), strict=True)
        return [
            ObjectInfo(prefix + pair_id + suffixes[suffix], size, generation, crc32c if has_crc32c else None)
            for pair_id, suffix, size, generation, crc32c, has_crc32c in values
        ]

    def take(self, rows: Rows) -> ObjectColumns:
        """New columns of these rows, in this order."""
        taken: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS}
        return replace(self, **taken)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the arrays take."""
        return sum(getattr(self, name).nbytes for name in COLUMNS)


class Catalog:
    """Every complete pair, sorted by the UTF-8 of its id; see `ringfeedd.catalog.listing.build_catalog`.

    Holds arrays only: about 60 bytes a pair and the ids themselves.
    """

    def __init__(
        self, ids: IdTable, hashes: Hashes, images: ObjectColumns, labels: ObjectColumns, incomplete: Incomplete
    ) -> None:
        self.ids, self.hashes, self.images, self.labels = ids, hashes, images, labels
        self.incomplete = incomplete
        self.fingerprint = ids.fingerprint(np.arange(len(ids), dtype=np.int64))
        """Over all ids in order, as the splits' are over theirs."""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Catalog({len(self)} pairs, {self.nbytes / 1e6:.1f} MB, {self.fingerprint})"

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the catalog takes."""
        return self.ids.nbytes + self.hashes.nbytes + self.images.nbytes + self.labels.nbytes

    @property
    def mean_pair_bytes(self) -> float:
        """Mean size of a pair's two objects together, in bytes; objects too large to be downloaded count as empty."""
        sizes = (np.where(side.size > MAX_OBJECT_BYTES, 0, side.size).mean() for side in (self.images, self.labels))
        return float(sum(sizes))

    def id(self, index: int) -> str:
        """The id of one pair. Raises: IndexError."""
        return self.ids[index]

    def encoded_id(self, index: int) -> bytes:
        """The id of one pair as UTF-8. Raises: IndexError."""
        return self.ids.encoded(index)

    def pair(self, index: int) -> Pair:
        """One pair with its two objects. Raises: IndexError."""
        pair_id = self.ids[index]
        return Pair(pair_id, self.images.info(index, pair_id), self.labels.info(index, pair_id))

    def pairs(self, indices: list[int]) -> list[Pair]:
        """`pair` of each of these, for less than each alone."""
        if len(indices) < _FEW:
            return [self.pair(index) for index in indices]
        rows = np.array(indices, np.int64)
        pair_ids = self.ids.some(rows)
        return list(map(Pair, pair_ids, self.images.infos(rows, pair_ids), self.labels.infos(rows, pair_ids)))

    def split(self, test_ratio: float) -> dict[str, Split]:
        """The catalog as ``{"train": ..., "test": ...}``: disjoint, together all of it; either may be empty.

        A pair is in ``test`` when the hash of its id, as a fraction of 2**64, is less than `test_ratio`. So it stays
        where it is when pairs are added or removed, and a larger ratio only moves pairs from train to test.

        Raises:
            ConfigError: a ratio outside 0 to 1.
        """
        if not 0.0 <= test_ratio <= 1.0:
            raise ConfigError(f"The test ratio is {test_ratio}, and must lie between 0 and 1.")
        bound = int(test_ratio * 2**64)
        in_test = self.hashes < np.uint64(bound) if bound < 2**64 else np.ones(len(self), np.bool_)
        return {name: self._split(name, np.flatnonzero(part)) for name, part in ((TRAIN, ~in_test), (TEST, in_test))}

    def _split(self, name: str, rows: Rows) -> Split:
        indices = rows.astype(np.uint32)
        indices.flags.writeable = False
        fingerprint = self.fingerprint if len(rows) == len(self) else self.ids.fingerprint(rows)
        return Split(name, indices, fingerprint)
