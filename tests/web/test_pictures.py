"""The page's pictures are pairs that lie in the ring, whole or not at all, and cost the feed little."""

from __future__ import annotations

import asyncio
import io
import os
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from ring_fixtures import HEIGHT, WIDTH, served_ring, turning

import ringfeed
from ringfeed.plan import Place
from ringfeedd.web.page import gallery as galleries
from ringfeedd.web.page import pairs
from ringfeedd.web.page.gallery import EVERY_S, KEPT, Gallery, pictures
from ringfeedd.web.page.pairs import copy_pairs, newest_places
from ringfeedd.web.page.thumbnail import IGNORED, SIDE, palette, thumbnails


def opened(jpeg: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.format == "JPEG"
    return np.asarray(picture)


# Copies of slots.


def index_of(pair_id: str) -> int:
    return int(pair_id.removeprefix("größe/"))


def assert_whole(pair) -> None:
    index = index_of(pair.pair_id)
    assert (pair.image == index % 251).all()
    assert (pair.label == index).all()
    assert index == 1000 + pair.place.position  # the fixture's order is sequential


def test_the_newest_pairs_are_those_in_the_ring():
    with served_ring(slots=16) as served:
        service = served.service
        places = newest_places(service.ring, 5)
        found = list(copy_pairs(service.ring, service.descriptor, places))
        assert [pair.place.seq for pair in found] == [15, 14, 13, 12, 11]
        assert all(pair.valid for pair in found)
        for pair in found:
            assert_whole(pair)
        assert len(newest_places(service.ring, 100)) == 16


@dataclass
class FakeRing:
    floor: int = 0
    published: int = 16

    def place(self, seq: int) -> Place:
        return Place(seq, 0, seq)


@pytest.mark.parametrize("moves_at", [1, 2])
def test_a_pair_whose_slot_was_reassigned_is_omitted(monkeypatch, moves_at):
    copied = 0

    def pread(*arguments) -> bytes:
        nonlocal copied
        copied += 1
        if copied == moves_at:
            ring.floor = 16  # a worker may write there from here on
        return real(*arguments)

    with served_ring(slots=16) as served:
        ring, real = FakeRing(), os.pread
        monkeypatch.setattr(pairs.os, "pread", pread)
        assert list(copy_pairs(ring, served.service.descriptor, [Place(15, 0, 15)])) == []
        assert copied == 2
        ring.floor = 0
        assert len(list(copy_pairs(ring, served.service.descriptor, [Place(15, 0, 15)]))) == 1
        assert list(copy_pairs(ring, served.service.descriptor, [Place(31, 0, 31)])) == []  # the slot's record is of 15


def test_copies_are_complete_while_a_reader_advances():
    seen = 0
    with (
        served_ring(slots=4, epoch_length=100_000) as served,
        turning(served),
        ringfeed.attach(served.name, batch_size=1) as reader,
    ):
        for _ in zip(range(400), reader, strict=False):
            for pair in copy_pairs(
                served.service.ring, served.service.descriptor, newest_places(served.service.ring, 4)
            ):
                assert_whole(pair)
                seen += 1
    assert seen > 100


def test_a_ring_that_has_gone_shows_nothing():
    with served_ring() as served:
        service = served.service
        places = newest_places(service.ring)
    assert pictures(service.ring, service.descriptor, places) == ()


def test_a_native_pair_is_shown_at_its_size():
    with served_ring(fit="native") as served:
        served.memory.write_record(15, index=1015, valid=False, sizes=(8, 4, 2, 3), pair_id="größe/1015".encode())
        (pair,) = copy_pairs(served.service.ring, served.service.descriptor, [Place(15, 0, 15)])
        assert (pair.image.shape, pair.label.shape, pair.valid) == ((8, 4, 3), (2, 3), False)
        served.memory.write_record(15, index=1015, valid=True, sizes=(900, 900, 2, 3), pair_id=b"x")
        assert list(copy_pairs(served.service.ring, served.service.descriptor, [Place(15, 0, 15)])) == []


# Thumbnails.


def test_classes_are_drawn_over_the_image_in_colour():
    image = np.full((64, 64, 3), 200, np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[:, 32:] = 3
    overlaid, plain = (opened(file).astype(int) for file in thumbnails(image, label))
    assert np.abs(plain - 200).max() <= 3
    assert np.abs(overlaid[:, :24] - 200).max() <= 6  # class 0 is clear
    expected = 0.45 * 200 + 0.55 * palette()[3].astype(float)
    assert np.abs(overlaid[:, 40:] - expected).max() <= 10
    label[:] = IGNORED
    assert np.abs(opened(thumbnails(image, label)[0]).astype(int) - 200).max() < 20


def test_no_two_of_the_first_classes_look_alike():
    colours = palette()[1:40].astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(len(colours), dtype=int)
    assert apart.min() >= 12


@pytest.mark.parametrize(
    "label",
    [np.zeros((9, 7), np.uint16), np.arange(63, dtype=np.uint16).reshape(9, 7), np.ones((9, 7, 3), np.uint8)],
    ids=["nothing measured", "measurements", "colours"],
)
def test_every_kind_of_label_is_shown(label):
    image = np.full((90, 70, 3), 100, np.uint8)
    overlaid, _ = (opened(file).astype(int) for file in thumbnails(image, label))
    assert (np.abs(overlaid - 100).max() > 20) == bool(label.any())


@pytest.mark.parametrize("shape", [(1, 1), (3, 5000), (5000, 3), (1999, 3001), (240, 240), (7, 9)])
def test_a_thumbnail_is_small_and_keeps_its_form(shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    height, width = opened(thumbnails(image, np.zeros(shape, np.uint8))[1]).shape[:2]
    assert max(height, width) == min(SIDE, max(shape))
    assert height == pytest.approx(max(1, shape[0] * min(1, SIDE / max(shape))), abs=1)
    assert width == pytest.approx(max(1, shape[1] * min(1, SIDE / max(shape))), abs=1)


# The gallery.


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_number_of_requests_makes_more_pictures(monkeypatch):
    made = []

    def count(image, label):
        made.append(image)
        return thumbnails(image, label)

    monkeypatch.setattr(galleries, "thumbnails", count)

    async def story(service) -> None:
        clock = Clock()
        gallery = Gallery(clock)
        for _ in range(100):
            await gallery.look(service)
        first = gallery.shelf(service.name)
        assert len(made) == len(first) == 9
        clock.now = EVERY_S
        await gallery.look(service)
        await gallery.close()
        assert len(made) == 9  # the pairs are the same
        assert gallery.shelf(service.name) == first

    with served_ring(slots=16) as served:
        asyncio.run(story(served.service))


def test_pictures_are_kept_until_a_browser_asks():
    async def story(served) -> None:
        clock = Clock()
        gallery = Gallery(clock)
        await gallery.look(served.service)
        (first, *_) = gallery.shelf(served.name)
        assert opened(gallery.file(served.name, first.key, plain=True)).shape == (HEIGHT, WIDTH, 3)
        assert gallery.file(served.name, first.key, plain=False) == first.overlaid
        assert gallery.file(served.name, "0-0", plain=False) is None
        assert gallery.file("other", first.key, plain=False) is None
        for look in range(KEPT):
            with ringfeed.attach(served.name, batch_size=4) as reader:
                for _ in zip(range(8), reader, strict=False):
                    pass
            clock.now += EVERY_S
            await gallery.look(served.service)
            await asyncio.gather(*gallery._jobs.values())
            assert (gallery.file(served.name, first.key, plain=False) is None) == (look == KEPT - 1)
        await gallery.close()

    with served_ring(slots=16, epoch_length=1000) as served, turning(served):
        asyncio.run(story(served))


def test_a_label_of_another_size_fits_the_image():
    overlaid, _ = thumbnails(np.zeros((10, 20, 3), np.uint8), np.full((100, 3), 1, np.uint8))
    assert opened(overlaid).shape == (10, 20, 3)
