"""The demo's bucket: its pairs, and the real server that they are uploaded to."""

from __future__ import annotations

import asyncio
import base64
import io

import aiohttp
import google_crc32c
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gcp_storage_emulator")
pytest.importorskip("skimage")

from gcloud.aio.storage import Storage

from ringfeedd.demo.bucket import BUCKET, PREFIX, fill_bucket, fill_folder
from ringfeedd.demo.emulator import Emulator, read_access_log
from ringfeedd.demo.errors import DemoError
from ringfeedd.demo.photographs import CLASSES, PHOTOGRAPHS, SIZES, Photographs, class_map

PAIRS = 6


@pytest.fixture(scope="module")
def photographs():
    return Photographs()


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """A server whose bucket holds `PAIRS` pairs."""
    with Emulator(tmp_path_factory.mktemp("emulator"), bucket=BUCKET) as running:
        fill_bucket(running.url, pairs=PAIRS)
        yield running


def test_a_pair_depends_on_seed_and_number_alone(photographs):
    first = photographs.pair(3, seed=5)
    assert first == Photographs().pair(3, seed=5)
    assert first == list(photographs.pairs(4, seed=5))[3]
    assert first.image != photographs.pair(3, seed=6).image
    assert first.image != photographs.pair(4, seed=5).image


def test_ids_are_unique_and_name_the_photograph(photographs):
    ids = [pair.id for pair in photographs.pairs(12)]
    names = {name.rpartition(".")[0] for names in PHOTOGRAPHS.values() for name in names}
    assert len(set(ids)) == 12
    assert {name.rpartition("-")[0] for name in ids} <= names


def test_image_and_label_share_size_and_labels_classes(photographs):
    """The label holds class indices in 8 bits."""
    for pair in photographs.pairs(8):
        image, label = (Image.open(io.BytesIO(content)) for content in (pair.image, pair.label))
        assert (image.format, image.mode, label.format, label.mode) == ("JPEG", "RGB", "PNG", "P")
        assert image.size == label.size
        assert image.size in SIZES
        assert pair.label[24] == 8  # IHDR's bit depth
        assert int(np.asarray(label).max()) < len(CLASSES)
        palette = label.getpalette()
        assert palette is not None
        assert tuple(palette[: 3 * len(CLASSES)]) == tuple(channel for entry in CLASSES for channel in entry.colour)


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((10, 10, 10), "dark"),
        ((128, 128, 128), "grey"),
        ((250, 250, 250), "bright"),
        ((220, 30, 20), "red"),
        ((230, 190, 60), "yellow"),
        ((60, 170, 60), "green"),
        ((40, 80, 220), "blue"),
    ],
)
def test_a_plain_colour_is_of_its_class(colour, name):
    """The class that is named after it."""
    classes = class_map(Image.new("RGB", (20, 10), colour))
    assert classes.shape == (10, 20)
    assert classes.dtype == np.uint8
    assert {CLASSES[index].name for index in np.unique(classes)} == {name}


def test_every_class_occurs_and_none_is_nearly_everything(photographs):
    maps = [np.asarray(Image.open(io.BytesIO(pair.label))).ravel() for pair in photographs.pairs(30)]
    shares = np.bincount(np.concatenate(maps), minlength=len(CLASSES)) / sum(map(len, maps))
    assert shares.min() > 0
    assert shares.max() < 0.6


def test_the_folder_holds_the_same_bytes_as_pairs(tmp_path, photographs):
    ids = fill_folder(tmp_path, pairs=3, seed=1)
    for index, name in enumerate(ids):
        pair = photographs.pair(index, seed=1)
        assert pair.id == name
        assert (tmp_path / f"images/{name}.jpg").read_bytes() == pair.image
        assert (tmp_path / f"labels/{name}.png").read_bytes() == pair.label


def test_uploads_are_listed_with_checksum_and_unchanged(emulator, photographs):
    """And come back unchanged."""

    async def look():
        async with aiohttp.ClientSession() as session:
            storage = Storage(session=session, api_root=emulator.url)
            listed = await storage.list_objects(BUCKET, params={"prefix": f"{PREFIX}/"})
            contents = {entry["name"]: await storage.download(BUCKET, entry["name"]) for entry in listed["items"]}
            return listed["items"], contents

    items, contents = asyncio.run(look())
    expected = {f"{PREFIX}/{key}": content for pair in photographs.pairs(PAIRS) for key, content, _ in pair.objects()}
    assert contents == expected
    for entry in items:
        checksum = google_crc32c.Checksum(contents[entry["name"]]).digest()
        assert base64.b64decode(entry["crc32c"]) == checksum
        assert int(entry["size"]) == len(contents[entry["name"]])
        assert int(entry["generation"]) > 0


def test_many_downloads_at_once_succeed_and_are_counted(emulator, photographs):
    """By key."""
    key = f"{PREFIX}/images/{photographs.pair(0).id}.jpg"
    before = emulator.requests()

    async def download_often():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as session:
            storage = Storage(session=session, api_root=emulator.url)
            return await asyncio.gather(*(storage.download(BUCKET, key) for _ in range(200)))

    assert set(asyncio.run(download_often())) == {photographs.pair(0).image}
    after = emulator.requests()
    assert after.downloads[key] - before.downloads[key] == 200
    assert after.uploads == 2 * PAIRS
    assert after.refused == before.refused


def test_a_missing_bucket_is_a_sentence(emulator):
    with pytest.raises(DemoError, match=r"uploading to http://127\.0\.0\.1:\d+ failed"):
        fill_bucket(emulator.url, pairs=2, bucket="no-such-bucket")
    assert emulator.requests().refused > 0


def test_the_server_is_gone_after_its_with(tmp_path):
    with Emulator(tmp_path, bucket="b") as running:
        child = running.child
        assert child.exit_code is None
    assert child.exit_code is not None


def test_only_requests_count_in_an_access_log():
    requests = read_access_log(
        "Starting server at 127.0.0.1:1\n"
        '"GET /storage/v1/b/b/o?prefix=p HTTP/1.1" 200 -\n'
        '"GET /storage/v1/b/b/o/p%2Fimages%2Fa%20b.jpg?alt=media HTTP/1.1" 200 -\n'
        '"GET /storage/v1/b/b/o/p%2Fimages%2Fa%20b.jpg?alt=media HTTP/1.1" 206 -\n'
        '"GET /storage/v1/b/b/o/p%2Fgone?alt=media HTTP/1.1" 404 -\n'
        '"GET /storage/v1/b/b/o/p%2Fmeta?alt=json HTTP/1.1" 200 -\n'
        '"POST /upload/storage/v1/b/b/o?name=x HTTP/1.1" 200 -\n'
        "a line of another kind\n"
    )
    assert (requests.lists, requests.uploads, requests.refused) == (1, 1, 1)
    assert requests.downloads == {"p/images/a b.jpg": 2}
