"""Segment files of the disk tier: workers append pairs to one of their own, and read from all of them.

An entry is six words, then the image's bytes and the label's. Nothing is accepted that does not say by itself, in these
words and by CRC-32C, that it is the whole pair that is wanted. So a file may end or be damaged anywhere, and may be
removed or punched at any time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import google_crc32c
import msgspec

from ringfeedd.cache.policy import Indices, seal

WORDS: Final = 6
HEADER: Final = struct.Struct(f"<{WORDS}Q")
"""Hash of the id, version, lengths, checksums, place, seal. The index file consists of the same words."""

SEGMENT_BYTES: Final = 4 << 30
"""After which a worker begins another segment."""

OFFSET_BITS: Final = 40
"""A place is a segment's number, shifted by so many bits, and an offset in bytes."""

MOST_SEGMENTS: Final = 1 << 23
OPEN_SEGMENTS: Final = 48
"""Files that a worker keeps open to read from."""

_HALF: Final = 32
_LOW: Final = (1 << _HALF) - 1
_SUFFIX: Final = ".seg"
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2


class WrongEntryError(Exception):
    """An entry is not what its index says: damaged, cut off, or of another pair."""


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Where a pair was stored.

    Attributes:
        place: segment and offset, see `OFFSET_BITS`.
        lengths: of image and label, bytes: label << 32 | image.
        checksums: their CRC-32C: label << 32 | image.
    """

    place: int
    lengths: int
    checksums: int

    @property
    def size(self) -> int:
        """Bytes that it takes in its segment."""
        return HEADER.size + (self.lengths & _LOW) + (self.lengths >> _HALF)

    def words(self, pair_id: int, version: int) -> bytes:
        """Return what stands before the pair's bytes, and in the index."""
        words = (pair_id, version, self.lengths, self.checksums, self.place)
        return HEADER.pack(*words, seal(words))


class Contents(NamedTuple):
    """The bytes of a pair."""

    image: bytes
    label: bytes


def segment_of(place: int) -> int:
    """Return the number of a place's segment."""
    return place >> OFFSET_BITS


def offset_of(place: int) -> int:
    """Return a place's offset in its segment, bytes."""
    return place & (1 << OFFSET_BITS) - 1


def segment_path(folder: str, number: int) -> str:
    """Return where a segment lies."""
    return f"{folder}/{number:07d}{_SUFFIX}"


def segments(folder: str) -> Iterator[int]:
    """Yield the numbers of a folder's segments. Raises: OSError."""
    for name in os.listdir(folder):  # noqa: PTH208  # names are what is matched
        number, dot, _ = name.partition(".")
        if f"{dot}seg" == name[len(number) :] and number.isdigit():
            yield int(number)


def contents(data: bytes, pair_id: int, version: int) -> Contents:
    """Return the pair of an entry's bytes.

    Raises:
        WrongEntryError: it is another pair's, or was not written to its end, or is damaged.
    """
    if len(data) < HEADER.size:
        raise WrongEntryError("it is cut off")
    *words, check = HEADER.unpack_from(data)
    if (words[0], words[1]) != (pair_id, version) or check != seal(words):
        raise WrongEntryError("it is not this pair's")
    middle = HEADER.size + (words[2] & _LOW)
    end = middle + (words[2] >> _HALF)
    if len(data) < end:
        raise WrongEntryError("it is cut off")
    found = Contents(data[HEADER.size : middle], data[middle:end])
    if checksums(found.image, found.label) != words[3]:
        raise WrongEntryError("its CRC-32C is wrong")
    return found


def checksums(image: bytes, label: bytes) -> int:
    """Return the CRC-32C of both: label << 32 | image."""
    return int(google_crc32c.value(label)) << _HALF | int(google_crc32c.value(image))


class SegmentReader:
    """Reads entries; keeps the files that were used last open."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: OrderedDict[int, int] = OrderedDict()

    def read_ahead(self, place: int, size: int) -> None:
        """Have the kernel read an entry before `read` wants it; nothing is said where that fails."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._file(segment_of(place)), offset_of(place), size, os.POSIX_FADV_WILLNEED)

    def read(self, place: int, size: int, pair_id: int, version: int) -> Contents:
        """Return a pair's bytes, verified.

        Raises:
            WrongEntryError: the entry is not whole.
            OSError: the file cannot be read, or is gone.
        """
        number = segment_of(place)
        was_open = number in self._files
        try:
            return contents(os.pread(self._file(number), size, offset_of(place)), pair_id, version)
        except WrongEntryError:
            if not was_open:
                raise
            self._close(number)  # the folder may have been removed, and filled again
            return contents(os.pread(self._file(number), size, offset_of(place)), pair_id, version)

    def close(self) -> None:
        """Close all files."""
        while self._files:
            self._close(next(iter(self._files)))

    def _file(self, number: int) -> int:
        if (fd := self._files.get(number)) is not None:
            self._files.move_to_end(number)
            return fd
        fd = os.open(segment_path(self._folder, number), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._files[number] = fd
        if len(self._files) > OPEN_SEGMENTS:
            self._close(next(iter(self._files)))
        return fd

    def _close(self, number: int) -> None:
        os.close(self._files.pop(number))


class SegmentWriter:
    """Appends entries to a segment of its own, which is made when the first one comes."""

    def __init__(self, folder: str, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder, self._segment_bytes = folder, segment_bytes
        self._fd: int | None = None
        self._number = self._end = 0

    def append(self, pair_id: int, version: int, image: bytes, label: bytes) -> Entry:
        """Write a pair.

        Raises:
            OSError: there is no room, or no folder; what was written of it is taken back.
        """
        fd = self._file()
        place = self._number << OFFSET_BITS | self._end
        entry = Entry(place, len(label) << _HALF | len(image), checksums(image, label))
        try:
            _write(fd, [entry.words(pair_id, version), image, label], self._end)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._end)
            raise
        self._end += entry.size
        return entry

    def close(self) -> None:
        """Close the segment."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _file(self) -> int:
        if self._fd is not None and (self._end >= self._segment_bytes or not os.fstat(self._fd).st_nlink):
            self.close()
        if self._fd is None:
            number = max(segments(self._folder), default=-1) + 1
            while self._fd is None:
                if number >= MOST_SEGMENTS:
                    raise OSError(f"{self._folder} holds too many segments")
                with contextlib.suppress(FileExistsError):
                    self._fd = _create(segment_path(self._folder, number))
                    self._number, self._end = number, 0
                number += 1
        return self._fd


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _write(fd: int, parts: list[bytes], offset: int) -> None:
    """Write all parts, one after the other. Raises: OSError."""
    wanted = sum(map(len, parts))
    written = os.pwritev(fd, parts, offset)
    rest = b"".join(parts)[written:] if written < wanted else b""
    while rest:
        written = os.pwrite(fd, rest, offset + wanted - len(rest))
        rest = rest[written:]


def punch(path: Path, extents: list[tuple[int, int]]) -> bool:
    """Give back the disk space of parts of a file, which read as zeros then; return False where that is not possible.

    Args:
        extents: offsets and lengths, bytes.
    """
    fallocate = _fallocate()
    if fallocate is None:
        return False
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        return all(fallocate(fd, mode, offset, length) == 0 for offset, length in extents)
    finally:
        os.close(fd)


def _fallocate() -> Callable[[int, int, int, int], int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    function.restype = ctypes.c_int
    return function


def extents(offsets: Indices, sizes: Indices) -> list[tuple[int, int]]:
    """Return offsets and lengths, those joined that touch each other."""
    joined: list[tuple[int, int]] = []
    for offset, size in sorted(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + size)
        else:
            joined.append((offset, size))
    return joined


def truncate_file(path: Path, end: int) -> None:
    """Cut off what lies beyond ``end`` bytes, if that is possible."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > end:
            os.truncate(path, end)
