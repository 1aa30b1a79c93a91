"""Pairs, splits and what is left over."""

import asyncio
import random
import subprocess
import sys
import textwrap
from hashlib import blake2b

import numpy as np
import pytest
from gcs_fixtures import ListedSource
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfeedd.catalog.ids import IdTable, id_hash
from ringfeedd.catalog.listing import Progress, build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.errors import ConfigError, StartError

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def build(names, images="images/{id}.jpg,jpeg", labels="labels/{id}.png", **source):
    return asyncio.run(build_catalog(ListedSource(names, **source), KeyTemplates.parse(images, labels)))


def both(ids):
    return [f"images/{one}.jpg" for one in ids] + [f"labels/{one}.png" for one in ids]


def ids_of(catalog):
    return [catalog.id(index) for index in range(len(catalog))]


@given(st.lists(IDS, min_size=1, max_size=60, unique=True), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_catalog_is_sorted_by_utf8(ids, rng):
    """Whatever the order of the listing."""
    names = both(ids)
    rng.shuffle(names)
    catalog = build(names, page=7)
    assert ids_of(catalog) == sorted(ids, key=str.encode)
    assert not catalog.incomplete
    assert catalog.fingerprint == build(sorted(names)).fingerprint


@given(st.lists(st.text("ab\0", min_size=0, max_size=40), max_size=80))
@settings(max_examples=200, deadline=None)
def test_a_table_sorts_as_python_does(ids):
    """For long common prefixes and zero bytes, too."""
    table = IdTable.of(ids)
    expected = sorted(range(len(ids)), key=lambda row: (ids[row].encode(), row))
    assert table.order().tolist() == expected


def test_each_pair_has_its_two_objects_metadata():
    ids = ["a", "a-b", "a/b", "a b", "ü#%41?", "x.jpg", ".hidden", "日本語", "\U0001f600"]
    names = both(ids)
    random.Random(1).shuffle(names)
    source = ListedSource(names)
    catalog = asyncio.run(build_catalog(source, KeyTemplates.parse()))
    for index in range(len(catalog)):
        pair = catalog.pair(index)
        assert pair.image == source.info(f"images/{pair.id}.jpg")
        assert pair.label == source.info(f"labels/{pair.id}.png")
    assert sorted(ids_of(catalog)) == sorted(ids)


def test_missing_checksums_are_none_and_not_zero():
    assert build(both(["a"]), crc32c=False).pair(0).image.crc32c is None


def test_batch_lookup_equals_single_lookup():
    catalog = build(both([f"größe/{number}" for number in range(40)]))
    some = [39, 0, 7, 7, *range(12, 30)]
    assert catalog.pairs(some) == [catalog.pair(index) for index in some]
    assert catalog.pairs([3]) == [catalog.pair(3)]
    assert catalog.pairs([]) == []


def test_an_index_outside_the_catalog_is_an_error():
    catalog = build(both(["a", "b"]))
    for index in (-1, 2):
        with pytest.raises(IndexError):
            catalog.pair(index)


def test_incomplete_pairs_are_counted_and_twenty_named():
    """The first twenty, in order."""
    lonely = [f"{number:03}" for number in range(30)]
    names = [f"images/{one}.jpg" for one in reversed(lonely)] + ["labels/z.png"] + both(["whole"])
    incomplete = build(names).incomplete
    assert incomplete.images_without_label.count == 30
    assert incomplete.images_without_label.names == tuple(f"images/{one}.jpg" for one in lonely[:20])
    assert incomplete.labels_without_image.names == ("labels/z.png",)
    assert incomplete.sentences()[1] == "labels without an image: 1 (labels/z.png)"


def test_the_templates_preferred_image_wins():
    """If two images have one id, in any order of the listing."""
    rivals = ["images/a.jpeg", "images/a.JPG", "images/a.jpg", "images/a.Jpg"]
    for seed in range(8):
        shuffled = random.Random(seed).sample(rivals, 4)
        catalog = build([*shuffled, "labels/a.png"])
        assert catalog.pair(0).image.name == "images/a.jpg"
        assert set(catalog.incomplete.duplicates.names) == set(rivals) - {"images/a.jpg"}
        catalog = build([name for name in shuffled if name != "images/a.jpg"] + ["labels/a.png"])
        assert catalog.pair(0).image.name == "images/a.JPG"


def test_an_id_has_1024_bytes_at_most():
    fits, too_long = "é" * 512, "é" * 512 + "x"
    catalog = build(both([fits, too_long]))
    assert ids_of(catalog) == [fits]
    assert catalog.incomplete.unusable_ids.count == 2


def test_a_file_name_outside_utf8_is_counted():
    """And it can be printed."""
    catalog = build([*both(["a"]), "images/\udcff.jpg"])
    assert catalog.incomplete.unusable_ids.count == 1
    assert catalog.incomplete.unusable_ids.names[0].isprintable()


def test_nested_prefixes_need_one_listing():
    """One listing serves both templates if one prefix holds the other."""
    source = ListedSource(["a.jpg", "a_mask.png", "b_mask.png", "b.jpg"])
    catalog = asyncio.run(build_catalog(source, KeyTemplates.parse("{id}.jpg", "{id}_mask.png")))
    assert ids_of(catalog) == ["a", "b"]
    assert source.listed == [""]


def test_progress_counts_the_objects_of_both_listings():
    seen = []
    source = ListedSource(both([f"{n}" for n in range(25)]), page=10)
    asyncio.run(build_catalog(source, KeyTemplates.parse(), seen.append))
    assert seen[-1] == Progress(25, 25)
    assert [p.images + p.labels for p in seen] == sorted(p.images + p.labels for p in seen)
    assert len(seen) == 6


def test_an_interrupted_listing_is_an_error():
    """It is not taken for a shorter catalog."""
    with pytest.raises(StartError, match="broke off"):
        build(both([f"{n}" for n in range(40)]), page=10, fails_after=20)


# -- splits


@given(st.sets(IDS, min_size=1, max_size=80), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_splits_are_disjoint_complete_and_as_documented(ids, ratio):
    catalog = build(both(sorted(ids)))
    split = catalog.split(ratio)
    parts = [part.indices.tolist() for part in split.values()]
    assert sorted(parts[0] + parts[1]) == list(range(len(ids)))
    for name, part in split.items():
        assert part.indices.tolist() == sorted(part.indices)
        assert part.indices.dtype == np.uint32
        assert part.name == name
        for index in part.indices:
            digest = blake2b(catalog.id(index).encode(), digest_size=8).digest()
            assert (int.from_bytes(digest, "little") < ratio * 2**64) == (name == "test")


def test_adding_pairs_moves_no_other_pair():
    few = [f"p{number}" for number in range(300)]
    before, after = build(both(few)), build(both(few + [f"a{number}" for number in range(300)]))

    def test_ids(catalog):
        return {catalog.id(index) for index in catalog.split(0.2)["test"].indices}

    assert test_ids(before) == test_ids(after) & set(few)
    assert 30 < len(test_ids(before)) < 90


def test_the_whole_range_of_ratios_is_allowed():
    """And nothing outside of it."""
    catalog = build(both(["a", "b", "c"]))
    assert [len(part) for part in catalog.split(0.0).values()] == [3, 0]
    assert [len(part) for part in catalog.split(1.0).values()] == [0, 3]
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            catalog.split(ratio)


def test_a_fingerprint_depends_on_ordered_ids_only():
    ids = [f"{number}" for number in range(50)]
    split = build(both(ids)).split(0.3)
    assert all(len(part.fingerprint) == 32 for part in split.values())
    assert split["train"].fingerprint != split["test"].fingerprint
    other_content = build(both(ids), crc32c=False).split(0.3)
    assert split["train"].fingerprint == other_content["train"].fingerprint
    assert build(both([*ids, "new"])).fingerprint != build(both(ids)).fingerprint
    assert build(both(["ab", "c"])).fingerprint != build(both(["a", "bc"])).fingerprint


@given(st.lists(IDS, min_size=1, max_size=60), st.data())
def test_some_rows_have_their_own_tables_fingerprint(ids, data):
    """Whether they are neighbours, nearly all, a few, or in any order: each is read in its own way."""
    table = IdTable.of(ids)
    rows = data.draw(
        st.lists(st.integers(0, len(ids) - 1), max_size=80) | st.sets(st.integers(0, len(ids) - 1)).map(sorted)
    )
    alone = IdTable.of([ids[row] for row in rows])
    assert table.fingerprint(np.array(rows, np.int64)) == alone.fingerprint(np.arange(len(rows), dtype=np.int64))


def test_hashes_and_fingerprints_are_equal_on_every_machine():
    assert id_hash("images/ü".encode()) == 0x92CCE7F2561E5535
    assert build(both(["a", "b"])).fingerprint == "48f0513a2d7f18fdcb08b2692dc5df23"


# -- memory

SYNTHETIC = """
    import asyncio, sys
    from ringfeedd.catalog.templates import KeyTemplates
    from ringfeedd.catalog.listing import build_catalog
    from ringfeedd.storage import ObjectInfo

    COUNT = 1_000_000

    class Synthetic:
        root = "synthetic"

        async def list_pages(self, prefix, _skipped):
            extension = ".jpg" if prefix == "images/" else ".png"
            for at in range(0, COUNT, 1000):
                rows = [(row * STRIDE) % COUNT for row in range(at, at + 1000)]
                yield [
                    ObjectInfo(f"{prefix}part-{row // 1000:05d}/{row:014d}{extension}", 70_000, 10**15 + row, row)
                    for row in rows
                ]
                await asyncio.sleep(0)

    catalog = asyncio.run(build_catalog(Synthetic(), KeyTemplates.parse()))
    split = catalog.split(0.1)
    assert len(catalog) == sum(map(len, split.values())) == COUNT
    # not ru_maxrss, which a process inherits from the one that forked it
    peak_kib = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print(int(peak_kib) / 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("stride", [1, 7919], ids=["listed in order", "listed in disorder"])
def test_a_million_pairs_take_less_than_250_mb(stride):
    """The whole process is counted."""
    code = textwrap.dedent(SYNTHETIC).replace("STRIDE", str(stride))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 250
