"""size = "auto": a slot for what a sample shows and for the largest objects, as far as there is memory."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from decode_reference import encode
from PIL import Image

from ringfeedd.catalog.listing import build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.decode.spec import Fit
from ringfeedd.errors import StartError
from ringfeedd.storage import StoreSettings, open_source
from ringfeedd.supervisor import probe
from ringfeedd.supervisor.probe import LARGEST_PAIRS, SAMPLE_PAIRS, Looked, choose_size, largest_pairs, probe_sizes

OTHERS = [Fit.RESIZE, Fit.CROP, Fit.PAD]


@pytest.fixture
def folder(tmp_path):
    """400 small pictures, of which 9 that no spread over the ids meets are large."""
    rng = np.random.default_rng(5)
    sampled = set(np.linspace(0, 399, num=SAMPLE_PAIRS).astype(int).tolist())
    large = [number for number in range(400) if number not in sampled][::45]
    small, big = (encode(Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)), "JPEG") for size in
                  ((24, 32), (96, 128)))  # fmt: skip
    blank = encode(Image.new("RGB", (300, 200)), "PNG")
    flat = encode(Image.new("RGB", (400, 300)), "JPEG")
    for side in ("images", "labels"):
        (tmp_path / side).mkdir()
    for number in range(400):
        data, extension = (blank, "png") if number == large[0] else (big if number in large else small, "jpg")
        (tmp_path / "images" / f"{number:04}.{extension}").write_bytes(data)
        (tmp_path / "labels" / f"{number:04}.png").write_bytes(b"")
    (tmp_path / "images" / f"{large[1] + 1:04}.jpg").write_bytes(flat)
    (tmp_path / "labels" / f"{large[1] + 1:04}.png").write_bytes(b"the largest label of all")
    return tmp_path


def use(folder, story):
    async def main():
        source = await open_source(str(folder), StoreSettings(concurrency=4))
        try:
            return await story(source, await build_catalog(source, KeyTemplates.parse("images/{id}.jpg,png")))
        finally:
            await source.close()

    return asyncio.run(main())


def look(folder):
    return use(folder, lambda source, catalog: probe_sizes(source, catalog, max_pixels=10**6, exif_orientation=False))


def test_the_sample_includes_the_largest_objects(folder):
    looked = look(folder)
    assert set(looked.sample) == {(24, 32)}
    assert set(looked.largest) >= {(96, 128), (200, 300), (300, 400)}, "of images, of each kind, and of labels"
    assert choose_size(looked, Fit.NATIVE) == (450, 400)
    assert {choose_size(looked, fit) for fit in OTHERS} == {(24, 32)}, "which a few large ones do not move"


def test_the_largest_of_each_kind_of_file_count(folder):
    def names(_source, catalog):
        async def story():
            return [catalog.pair(index).image for index in list(largest_pairs(catalog))[: LARGEST_PAIRS + 1]]

        return story()

    found = use(folder, names)
    assert len(found) == LARGEST_PAIRS + 1
    assert [info.name[-3:] for info in found].count("png") == 1, "a blank one of few bytes"
    jpegs = [info.size for info in found if info.name.endswith("jpg")]
    assert jpegs == sorted(jpegs, reverse=True)


def test_the_largest_are_bounded_in_bytes(folder, monkeypatch):
    monkeypatch.setattr(probe, "MAX_LARGEST_BYTES", 1)

    async def count(_source, catalog):
        return len(largest_pairs(catalog))

    assert use(folder, count) == 3, "one of each kind, and one label"


def test_pictures_that_cannot_be_read_are_passed_by(folder):
    for path in (folder / "images").glob("*[05].jpg"):
        path.write_bytes(b"")
    assert (24, 32) in look(folder).sample
    for path in (folder / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(StartError, match=r"none of the .* pairs that were looked at could be loaded"):
        look(folder)


def test_one_size_for_all_is_kept():
    for fit in Fit:
        assert choose_size(Looked([(24, 32)] * 3, [(24, 32)]), fit) == (24, 32)


def test_a_native_slot_takes_what_fits_into_memory():
    looked = Looked([(10, 10), (20, 20)], [(40, 30), (100, 90)])
    assert choose_size(looked, Fit.NATIVE) == (150, 90)
    bounds = {9000: (100, 90), 8999: (40, 30), 1199: (20, 20), 1: (150, 90)}
    for most, expected in bounds.items():
        assert choose_size(looked, Fit.NATIVE, lambda size, most=most: size[0] * size[1] <= most) == expected


def test_a_sample_that_failed_leaves_the_largest():
    assert choose_size(Looked([], [(7, 9)]), Fit.RESIZE) == (7, 9)
