"""The process's own pages: mapping files twice in a row, moving what is mapped, and seeing what was written into.

Addresses are numbers, sizes are bytes. A caller must make sure that what it moves or blanks is a mapping of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

import numpy as np

from ringfeed.errors import NoAddressSpaceError

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = _LIBC.mremap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_LIBC.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FIXED: Final = 0x10
MAP_NORESERVE: Final = 0x4000
"""Count nothing of a private mapping as used before it is written into."""
_MREMAP_MAYMOVE: Final = 1
_MREMAP_FIXED: Final = 2
_FAILED: Final = ctypes.c_void_p(-1).value
_NOTHING: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE

OFFSET_UNIT: Final = mmap.ALLOCATIONGRANULARITY
"""Bytes; a file is mapped from a multiple of it: 4, 16 or 64 KiB, the size of the machine's pages."""

_PAGE_MAP: Final = "/proc/self/pagemap"
_PRESENT_OR_SWAPPED: Final = 0xC0
"""Bits 63 and 62 of a page's word, in its highest byte; see the kernel's admin-guide/mm/pagemap.rst."""
_OF_A_FILE: Final = 0x20
"""Bit 61: the page is the file's own, or shared memory's. Not set: a copy that is this process's alone."""
_SCAN: Final = 0xC0606610
"""PAGEMAP_SCAN of Linux 6.7 and later, in half the time. Its argument is 12 words, struct pm_scan_arg."""
_SCAN_OF_A_FILE: Final = 1 << 2
_SCAN_PRESENT: Final = 1 << 3
_SCAN_SWAPPED: Final = 1 << 4
_STRICT_OVERCOMMIT: Final = 2


@cache
def copies_on_write() -> bool:
    """Return whether a mapping may take writes into private pages, i.e. whether such pages can be found later.

    False without ``/proc/self/pagemap`` (some sandboxes), and where the kernel counts private mappings as used memory
    (``vm.overcommit_memory = 2``): mappings are read-only there.
    """
    try:
        with open(_PAGE_MAP, "rb"), open("/proc/sys/vm/overcommit_memory") as strictness:  # noqa: PTH123
            return int(strictness.read()) != _STRICT_OVERCOMMIT
    except (OSError, ValueError):
        return False


def split_offset(offset: int) -> tuple[int, int]:
    """Return the nearest offset below from which a file can be mapped, and how many bytes later ``offset`` is."""
    return offset - offset % OFFSET_UNIT, offset % OFFSET_UNIT


def can_repeat(offset: int, length: int) -> bool:
    """Return whether part of a file can be mapped back to back with itself: it has to be whole pages."""
    return offset % OFFSET_UNIT == length % OFFSET_UNIT == 0


def map_file(fd: int, offset: int, length: int, *, protection: int, flags: int, times: int) -> memoryview:
    """Map part of a file ``times`` times back to back; unmapped when the last array over it is gone.

    Never unmapped at the interpreter's exit: arrays may outlive this module.

    Args:
        offset, length: bytes; see `can_repeat` for more than once.
        flags: ``MAP_SHARED`` or ``MAP_PRIVATE``, and what goes with it.

    Raises:
        OSError: the kernel refused, e.g. the address space is limited.
    """
    begin, before = split_offset(offset)
    size = before + times * length
    address = _mmap(None, size, 0, _NOTHING, -1, 0)
    try:
        for copy in range(times):
            _mmap(address + copy * length, before + length, protection, flags | _MAP_FIXED, fd, begin)
    except OSError:
        _LIBC.munmap(address, size)
        raise
    pages = (ctypes.c_ubyte * size).from_address(address)
    unmap = weakref.finalize(pages, _LIBC.munmap, address, size)
    unmap.atexit = False
    return memoryview(pages).cast("B")[before:]


def not_mapped(length: int, code: int) -> NoAddressSpaceError:
    """Return the error for ``length`` bytes that the kernel did not map, with its ``errno``."""
    error = NoAddressSpaceError(
        f"could not map {length} bytes ({length / 2**20:.0f} MiB) of shared memory: {os.strerror(code)}; raise what "
        f"this process may map (`ulimit -v`, or its container's memory), or serve fewer or smaller slots"
    )
    error.errno = code
    return error


def spans(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the pages under ranges of addresses, each once: (first address, size) of each run of adjacent pages.

    As few runs as there are, because each becomes a mapping, and a process may have only so many of these.
    """
    run = (0, 0)
    for address, nbytes in sorted(ranges):
        begin = address - address % mmap.PAGESIZE
        end = -(-(address + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        if begin <= sum(run):
            run = (run[0], max(end, sum(run)) - run[0])
            continue
        if run[1]:
            yield run
        run = (begin, end - begin)
    if run[1]:
        yield run


def copy_out(address: int, nbytes: int) -> None:
    """Put copies of pages in the pages' own place; the originals are released.

    At one moment for every other thread, so arrays over the pages show the same bytes before and after it, and keep
    them from then on.

    Raises:
        OSError: there is no memory, or the process has too many mappings; nothing has changed.
    """
    copy = _mmap(None, nbytes, _READ_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    ctypes.memmove(copy, address, nbytes)
    if _LIBC.mremap(copy, nbytes, nbytes, _MREMAP_MAYMOVE | _MREMAP_FIXED, address) == _FAILED:
        code = ctypes.get_errno()
        _LIBC.munmap(copy, nbytes)
        raise OSError(code, f"could not move {nbytes} bytes out of shared memory: {os.strerror(code)}")


def blank(address: int, nbytes: int) -> None:
    """Put empty pages in the place of whole pages, which gives what was mapped there back.

    Raises:
        OSError: the process has too many mappings; nothing has changed.
    """
    _mmap(address, nbytes, _READ_WRITE, _NOTHING | _MAP_FIXED, -1, 0)


class PageMap:
    """What the kernel tells of this process's pages. Kept open: to open it costs as much as ten looks."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            OSError: the kernel refused, e.g. since the process has changed its user.
        """
        self._fd = os.open(_PAGE_MAP, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd).atexit = False
        self._found = (ctypes.c_uint64 * 3)()  # where the kernel writes the range of the first page
        any_of, not_of = _SCAN_PRESENT | _SCAN_SWAPPED, _SCAN_OF_A_FILE
        self._request = (ctypes.c_uint64 * 12)(
            *(12 * 8, 0, 0, 0, 0),  # size, flags, begin, end, where the kernel stopped
            *(ctypes.addressof(self._found), 1, 1),  # where to write, how many ranges, how many pages
            *(not_of, not_of, any_of, any_of),  # inverted, all of, any of, what to tell
        )

    def written(self, ranges: Iterable[tuple[int, int]]) -> bool:
        """Return whether this process has private copies of any page under ranges of private mappings of a file.

        Args:
            ranges: addresses and sizes.

        Raises:
            OSError: the kernel refused.
        """
        page = mmap.PAGESIZE
        for address, nbytes in ranges:
            begin, end = address - address % page, -(-(address + nbytes) // page) * page
            self._request[2:4] = [begin, end]
            try:
                found = bool(fcntl.ioctl(self._fd, _SCAN, self._request))  # the kernel stops at the first
            except OSError:  # an older kernel
                found = self._read(begin, end)
            if found:
                return True
        return False

    def _read(self, begin: int, end: int) -> bool:
        words = os.pread(self._fd, (end - begin) // mmap.PAGESIZE * 8, begin // mmap.PAGESIZE * 8)
        highest = np.frombuffer(words, np.uint8)[7::8]
        return bool(((highest & _PRESENT_OR_SWAPPED != 0) & (highest & _OF_A_FILE == 0)).any())


def _mmap(address: int | None, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    mapped = _LIBC.mmap(address, length, protection, flags, fd, offset)
    if mapped == _FAILED:
        raise not_mapped(length, ctypes.get_errno())
    return int(mapped)
