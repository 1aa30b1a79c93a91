"""Millions of ids in two arrays: their UTF-8 in one blob, and where each of them begins."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    Bytes: TypeAlias = npt.NDArray[np.uint8]
    Rows: TypeAlias = npt.NDArray[np.int64]
    Hashes: TypeAlias = npt.NDArray[np.uint64]

FINGERPRINT_BYTES = 16

_CHUNK_BYTES = 1 << 20
_CHUNK_ROWS = 1 << 16
_DENSE = 2


def id_hash(pair_id: bytes) -> int:
    """64 bits that spread evenly over ids: what a split is decided by, on every machine alike."""
    return int.from_bytes(hashlib.blake2b(pair_id, digest_size=8).digest(), "little")


class IdTable:
    """Row i is the UTF-8 between ``offsets[i]`` and ``offsets[i + 1]`` of the blob; nothing changes after the start.

    Args:
        blob: all ids, one after the other; (bytes,) uint8.
        offsets: (rows + 1,) int64, from 0 up.
    """

    def __init__(self, blob: Bytes, offsets: Rows) -> None:
        self._blob = blob
        self._offsets = offsets
        self._bytes: memoryview = blob.data  # a row read through it costs a third of one read through numpy
        self._rows = len(offsets) - 1

    @classmethod
    def of(cls, ids: list[str]) -> IdTable:
        """A table of these ids, in this order."""
        encoded = [pair_id.encode() for pair_id in ids]
        return cls.packed(bytearray().join(encoded), np.array([len(one) for one in encoded], np.uint16))

    @classmethod
    def packed(cls, blob: bytes | bytearray, lengths: npt.NDArray[np.uint16]) -> IdTable:
        """A table over ids that lie one after the other already; the blob is used, not copied."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(np.frombuffer(blob, np.uint8), offsets)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, row: int) -> str:
        return self.encoded(row).decode()

    @property
    def arrays(self) -> tuple[Bytes, Rows]:
        """Blob and offsets."""
        return self._blob, self._offsets

    @property
    def nbytes(self) -> int:
        """Bytes of memory that both arrays take."""
        return self._blob.nbytes + self._offsets.nbytes

    def encoded(self, row: int) -> bytes:
        """Row's UTF-8."""
        if not 0 <= row < self._rows:
            raise IndexError(f"there is no row {row} in a table of {self._rows} ids")
        return bytes(self._bytes[self._offsets.item(row) : self._offsets.item(row + 1)])

    def some(self, rows: Rows) -> list[str]:
        """The ids of these rows, in this order; rows that are not in the table are not noticed."""
        starts, ends, text = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist(), self._bytes
        return [str(text[start:end], "utf-8") for start, end in zip(starts, ends, strict=True)]

    def take(self, rows: Rows) -> IdTable:
        """A new table of these rows, in this order."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self._offsets[rows + 1] - self._offsets[rows], out=offsets[1:])
        blob = np.empty(int(offsets[-1]), np.uint8)
        at = 0
        for piece in self._pieces(rows):
            blob[at : at + len(piece)] = piece
            at += len(piece)
        return IdTable(blob, offsets)

    def fingerprint(self, rows: Rows) -> str:
        """32 hex digits that two lists of ids share only when they are the same ids in the same order."""
        digest = hashlib.blake2b(digest_size=FINGERPRINT_BYTES, person=b"ringfeed.ids")
        # the lengths first: without them, ("ab", "c") and ("a", "bc") would be the same bytes
        digest.update((self._offsets[rows + 1] - self._offsets[rows]).astype("<u4").tobytes())
        for piece in self._pieces(rows):
            digest.update(piece.data)
        return digest.hexdigest()

    def order(self) -> Rows:
        """The rows sorted by their bytes; equal ids keep their places among each other."""
        return np.fromiter(sorted(range(len(self)), key=self.encoded), np.int64, len(self))

    def _pieces(self, rows: Rows) -> Iterator[Bytes]:
        """The bytes of these rows, one after the other, in pieces small enough to be built by index."""
        if not len(rows):
            return
        longest = int((self._offsets[rows + 1] - self._offsets[rows]).max())
        step = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // max(longest, 1)))
        for at in range(0, len(rows), step):
            chunk = rows[at : at + step]
            first, last = int(chunk[0]), int(chunk[-1])
            if last - first < _DENSE * len(chunk) and np.all(chunk[1:] > chunk[:-1]):
                yield self._between(first, last, chunk)
                continue
            start, length = self._offsets[chunk], self._offsets[chunk + 1] - self._offsets[chunk]
            ends = np.cumsum(length)
            index = np.repeat(start - (ends - length), length) + np.arange(int(ends[-1]))
            yield self._blob[index]

    def _between(self, first: int, last: int, rows: Rows) -> Bytes:
        """The bytes of these rows, which ascend from first to last and leave few out: for half of what an index takes.

        That is what the fingerprint of a large catalog, or of most of it, costs at a start.
        """
        offsets = self._offsets[first : last + 2]
        text = self._blob[offsets.item(0) : offsets.item(-1)]
        if len(rows) == last - first + 1:
            return text
        wanted = np.zeros(last - first + 1, np.bool_)
        wanted[rows - first] = True
        return text[np.repeat(wanted, np.diff(offsets))]
