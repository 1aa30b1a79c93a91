"""A process's own pages: which are copied out together, and what is left of a mapping."""

from __future__ import annotations

import mmap
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_fixtures import HEIGHT, WIDTH, served_ring, small_geometry, turning, unique_ring_name

import ringfeed
from ringfeed.reader.fields import FieldRows
from ringfeed.shm import pages, segment
from ringfeed.shm.layout import Field, Geometry, page_ceil, plan_geometry

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


# Machines with pages of 16 and 64 KiB.


@pytest.fixture(params=[16 << 10, 64 << 10])
def offset_unit(request, monkeypatch):
    """Have files be mapped from multiples of it only, as on such a machine."""
    unit, map_at, map_bytes = request.param, pages._mmap, mmap.mmap

    def checked(address: int | None, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
        assert offset % unit == 0
        return map_at(address, length, protection, flags, fd, offset)

    def checked_bytes(*arguments, offset=0, **named):
        assert offset % unit == 0
        return map_bytes(*arguments, offset=offset, **named)

    monkeypatch.setattr(pages, "OFFSET_UNIT", unit)
    monkeypatch.setattr(pages, "_mmap", checked)
    monkeypatch.setattr(mmap, "mmap", checked_bytes)
    return unit


@given(offset=st.integers(0, 1 << 40))
def test_an_offset_is_split_at_a_page_below(offset):
    begin, before = pages.split_offset(offset)
    assert begin + before == offset
    assert begin % pages.OFFSET_UNIT == 0
    assert 0 <= before < pages.OFFSET_UNIT


@pytest.mark.parametrize("slots", [8, 12])  # mirrored with pages of 4 KiB, and not
def test_a_ring_is_read_on_larger_pages(offset_unit, slots):
    """Lane pages and the label's rows lie between its pages; batches wrap, are held, and move out of the ring."""
    geometry = Geometry(slots, 4, *small_fields(slots), mirrored=slots == 8)
    assert geometry.label.offset % offset_unit
    assert any(geometry.lane_offset(lane) % offset_unit for lane in range(4))
    with (
        served_ring(geometry=geometry, epoch_length=21) as served,
        turning(served),
        ringfeed.attach(served.name, batch_size=3, drop_last=False) as reader,
    ):
        held = []
        for _ in range(3):
            held += [(batch.image, batch.label, 1000 + batch.positions) for batch in reader]
        assert len(held) == 21
        assert reader.statistics()["moved_batches"] > 0
    for image, label, indices in held:
        assert np.array_equal(image, np.broadcast_to((indices % 251)[:, None, None, None], image.shape))
        assert np.array_equal(label, np.broadcast_to(indices[:, None, None], label.shape))


def small_fields(slots: int) -> tuple[Field, Field]:
    image = Field("image", 0, (HEIGHT, WIDTH, 3), "uint8")
    return image, Field("label", page_ceil(slots * image.row_bytes), (HEIGHT, WIDTH), "uint16")


def test_workers_write_rows_on_larger_pages(offset_unit):
    geometry, name = Geometry(8, 1, *small_fields(8), mirrored=True), unique_ring_name()
    fd = segment.create(name, geometry.data_bytes, mode=0o600, gid=-1)
    segment.shm_path(name).unlink()
    label = geometry.label
    view = segment.map_region(fd, label.offset, 8 * label.row_bytes, writable=True, twice=False)
    view[:] = bytes(range(256)) * (len(view) // 256)
    assert os.pread(fd, geometry.data_bytes, 0) == bytes(label.offset) + bytes(view)
    os.close(fd)


@pytest.mark.parametrize("page", [4 << 10, 16 << 10, 64 << 10])
def test_a_mirrored_rings_regions_are_whole_pages(monkeypatch, page):
    monkeypatch.setattr(mmap, "PAGESIZE", page)
    row = (224, 224)
    geometry = plan_geometry(slots=500, lanes=4, image_row=(*row, 3), label_row=row, label_dtype="uint8")
    assert geometry.mirrored
    assert 500 <= geometry.slots <= 512
    for field in (geometry.image, geometry.label):
        assert field.offset % page == geometry.slots * field.row_bytes % page == 0
