"""A process's own pages: which are copied out together, and what is left of a mapping."""

from __future__ import annotations

import mmap
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_fixtures import small_geometry, unique_ring_name

from ringfeed.reader.fields import FieldRows
from ringfeed.shm import pages, segment

PAGE = mmap.PAGESIZE


@given(st.lists(st.tuples(st.integers(PAGE, 40 * PAGE), st.integers(1, 3 * PAGE))))
def test_spans_are_all_pages_of_the_ranges_once(ranges):
    spans = list(pages.spans(ranges))
    touched = {
        page for address, nbytes in ranges for page in range(address // PAGE, (address + nbytes - 1) // PAGE + 1)
    }
    listed = [page for address, nbytes in spans for page in range(address // PAGE, (address + nbytes) // PAGE)]
    assert listed == sorted(touched)
    assert all(address + nbytes < following for (address, nbytes), (following, _) in pairwise(spans)), "in one piece"


def test_arrays_of_two_adjacent_mappings_are_kept(monkeypatch):
    """The last rows of one mapping and the first of the next one move in one piece."""
    geometry, name = small_geometry(slots=16), unique_ring_name()
    place_side_by_side(monkeypatch, 2 * 16 * geometry.image.row_bytes)
    fd = segment.create(name, geometry.data_bytes, mode=0o600, gid=-1)
    segment.shm_path(name).unlink()
    os.pwrite(fd, bytes(range(1, 251)) * 98, 0)
    rows = FieldRows(geometry.image, geometry, fd)
    at_its_start, expected = rows.read(0, 2, copy=False), rows.read(0, 2, copy=True)
    rows.renew()
    at_its_end, expected_there = rows.read(16, 16, copy=False), rows.read(0, 16, copy=True)
    assert at_its_end.ctypes.data + at_its_end.nbytes == at_its_start.ctypes.data
    rows.renew()
    rows.copy_out([at_its_start, rows.read(0, 1, copy=True), at_its_end])
    rows.let_go()
    os.pwrite(fd, bytes(geometry.data_bytes), 0)
    assert np.array_equal(at_its_start, expected)
    assert np.array_equal(at_its_end, expected_there)
    assert not rows.read(0, 16, copy=False).any()
    os.close(fd)


def place_side_by_side(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Have the next three mappings of this size follow each other downwards, as the kernel often does."""
    really = pages._mmap
    reserved = really(None, 3 * size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    places = iter([reserved + 2 * size, reserved + size, reserved])

    def place(address: int | None, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
        if address is None and length == size:
            address, flags = next(places), flags | pages._MAP_FIXED
        return really(address, length, protection, flags, fd, offset)

    monkeypatch.setattr(pages, "_mmap", place)
