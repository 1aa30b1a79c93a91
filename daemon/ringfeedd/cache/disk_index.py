"""The index file of the disk tier: the words of every entry, which the supervisor appends as workers report them.

It need not be whole: an entry is believed only if its words match their seal, and its bytes are verified when they are
read.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import numpy as np

from ringfeed.shm import segment
from ringfeedd.cache.policy import Indices, Words, sealed
from ringfeedd.cache.segments import HEADER, OFFSET_BITS, WORDS
from ringfeedd.system.files import open_at_once

INDEX: Final = "index"

_MOST_UNWRITTEN_BYTES: Final = 1 << 22
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_LENGTHS, _PLACE = 2, 4
_LOW: Final = np.uint64((1 << 32) - 1)


class IndexTable:
    """The entries of an index at one moment.

    Attributes:
        words: (entries, words).
    """

    def __init__(self, words: Words) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def read(cls, folder: Path) -> IndexTable:
        """Return the entries of a folder's index that were written to their end."""
        try:
            with open(folder / INDEX, "rb", opener=open_at_once) as file:
                data = file.read()
        except OSError:
            data = b""
        whole = data[: len(data) // HEADER.size * HEADER.size]
        words = np.frombuffer(whole, "<u8").reshape(-1, WORDS).astype(np.uint64)
        return cls(words[sealed(words)])

    @property
    def ids(self) -> Words:
        """(entries,) hashes of the ids."""
        return self.words[:, 0]

    @property
    def versions(self) -> Words:
        """(entries,) of the pairs' content."""
        return self.words[:, 1]

    @property
    def places(self) -> Indices:
        """(entries,) see `ringfeedd.cache.segments.OFFSET_BITS`."""
        return self.words[:, _PLACE].astype(np.int64)

    @property
    def segments(self) -> Indices:
        """(entries,) numbers of the segments."""
        return self.places >> OFFSET_BITS

    @property
    def offsets(self) -> Indices:
        """(entries,) bytes into the segments."""
        return self.places & ((1 << OFFSET_BITS) - 1)

    @property
    def sizes(self) -> Indices:
        """(entries,) bytes, headers included."""
        lengths = self.words[:, _LENGTHS]
        return ((lengths & _LOW) + (lengths >> np.uint64(32))).astype(np.int64) + HEADER.size


class IndexFile:
    """The index as the one daemon that may write it has it open."""

    def __init__(self, folder: Path) -> None:
        """Open it, or make it. Raises: OSError."""
        self._folder = folder
        self._fd = os.open(folder / INDEX, _FLAGS, 0o600)
        self._end = os.fstat(self._fd).st_size // HEADER.size * HEADER.size
        self._unwritten = bytearray()

    def __repr__(self) -> str:
        return f"IndexFile({str(self._folder)!r}, {self._end} bytes)"

    @property
    def named(self) -> bool:
        """Whether the file still has a name."""
        return os.fstat(self._fd).st_nlink > 0

    def append(self, words: bytes) -> None:
        """Take an entry, to be written by the next `flush`; those of a disk that stays full are forgotten."""
        if len(self._unwritten) < _MOST_UNWRITTEN_BYTES:
            self._unwritten += words

    def flush(self) -> None:
        """Write what was appended, as far as there is room."""
        if not self._unwritten:
            return
        try:
            written = os.pwrite(self._fd, self._unwritten, self._end) // HEADER.size * HEADER.size
        except OSError:
            return  # there is no room, say: written later, or found missing after a restart
        self._end += written
        del self._unwritten[:written]

    def rewrite(self, table: Words) -> None:
        """Put an index of these entries in its place. Raises: OSError: the old one stays."""
        draft = self._folder / f"{INDEX}.draft"
        try:
            fd = os.open(draft, _FLAGS | os.O_TRUNC, 0o600)
            try:
                segment.write_all(fd, np.ascontiguousarray(table, "<u8").tobytes())
                draft.rename(self._folder / INDEX)
            except OSError:
                os.close(fd)
                raise
        except OSError:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd, self._end = fd, table.nbytes

    def close(self) -> None:
        """Close the file; what was not flushed is forgotten."""
        os.close(self._fd)
