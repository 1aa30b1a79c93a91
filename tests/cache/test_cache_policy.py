"""Which pairs a tier keeps: a fixed share by a hash of the id. Another size or listing moves only the difference."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeedd.cache.policy import Keys, first_pairs, last_pairs, matches, seal, sealed, spread

OVERHEAD = 48


def side(rows: list[tuple[int, int, int | None]]) -> SimpleNamespace:
    """Columns of (size, generation, crc32c)."""
    return SimpleNamespace(
        size=np.array([row[0] for row in rows], np.uint64),
        generation=np.array([row[1] for row in rows], np.uint64),
        crc32c=np.array([row[2] or 0 for row in rows], np.uint32),
        has_crc32c=np.array([row[2] is not None for row in rows], np.bool_),
    )


def keys_of(pairs: dict[int, int]) -> Keys:
    """Keys of pairs: hash of the id -> size of the image."""
    ids = np.array(list(pairs), np.uint64)
    return Keys.of(ids, [side([(size, 1, 7) for size in pairs.values()]), side([(5, 1, 9)] * len(pairs))])


words = st.integers(0, 2**64 - 1)
catalogs = st.dictionaries(words, st.integers(1, 1000), max_size=60)


def kept_first(pairs: dict[int, int], count: int) -> set[int]:
    keys = keys_of(pairs)
    return set(keys.ids[first_pairs(keys, count)].tolist())


def kept_last(pairs: dict[int, int], room: int) -> set[int]:
    keys = keys_of(pairs)
    return set(keys.ids[last_pairs(keys, room, overhead=OVERHEAD)].tolist())


@given(catalogs, st.integers(0, 70), st.integers(0, 70))
def test_a_larger_memory_only_adds(pairs, one, other):
    small, large = sorted((one, other))
    assert kept_first(pairs, small) <= kept_first(pairs, large)
    assert len(kept_first(pairs, small)) == min(small, len(pairs))


@given(catalogs, st.integers(0, 60_000), st.integers(0, 60_000))
def test_a_larger_disk_only_adds(pairs, one, other):
    small, large = sorted((one, other))
    assert kept_last(pairs, small) <= kept_last(pairs, large)
    assert sum(pairs[one] + 5 + OVERHEAD for one in kept_last(pairs, small)) <= small


@given(catalogs, catalogs, st.integers(0, 70))
def test_another_listing_moves_only_the_difference(old, new, count):
    """Of pairs in both listings, those that leave the tier are no more than pairs that came, and the other way."""
    both = old | new
    came, went = len(both) - len(old), len(both) - len(new)
    before, after = kept_first(old, count), kept_first(new, count)
    assert len((before - after) & new.keys()) <= came
    assert len((after - before) & old.keys()) <= went


@given(catalogs, st.integers(0, 60_000))
def test_departing_pairs_evict_no_others_from_disk(pairs, room):
    kept = kept_last(pairs, room)
    rest = dict(list(pairs.items())[::2])
    assert kept & rest.keys() <= kept_last(rest, room)


@given(catalogs, st.integers(0, 70))
def test_memory_and_disk_begin_at_opposite_ends(pairs, count):
    """Together they keep as much as there is room for: none twice as long as both fit beside each other."""
    memory = kept_first(pairs, count)
    room = sum(size + 5 + OVERHEAD for one, size in pairs.items() if one not in memory)
    assert not memory & kept_last(pairs, room)
    assert memory | kept_last(pairs, room) == pairs.keys()


def test_a_share_does_not_follow_the_split():
    ids = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    test = ids < np.uint64(2**63)
    lower = spread(ids) < np.uint64(2**63)
    assert 0.48 < lower[test].mean() < 0.52


@pytest.mark.parametrize("change", [(9, 1, 7), (8, 2, 7), (8, 1, 6), (8, 1, None)])
@pytest.mark.parametrize("which", [0, 1])
def test_any_change_of_an_object_is_another_version(change, which):
    def version(facts: list[tuple[int, int, int | None]]) -> int:
        return Keys.of(np.array([3], np.uint64), [side([facts[0]]), side([facts[1]])]).versions.item()

    objects: list[tuple[int, int, int | None]] = [(8, 1, 7), (8, 1, 7)]
    before = version(objects)
    objects[which] = change
    assert version(objects) != before


def test_indistinguishable_content_is_not_kept():
    keys = Keys.of(
        np.array([1, 2, 3], np.uint64), [side([(5, 0, 7), (5, 0, None), (5, 4, None)]), side([(5, 1, 7)] * 3)]
    )
    assert sorted(first_pairs(keys, 3).tolist()) == [0, 2]
    assert last_pairs(keys, 10**6, overhead=OVERHEAD).tolist() == [0, 2]
    assert matches(keys, keys.ids, keys.versions).tolist() == [0, -1, 2]


@given(st.lists(st.tuples(words, words)), st.data())
def test_an_entry_is_found_by_id_and_version(entries, data):
    ids = np.array([one for one, _ in entries], np.uint64)
    versions = np.array([version for _, version in entries], np.uint64)
    wanted = data.draw(st.lists(st.tuples(words, words) if not entries else st.sampled_from(entries), unique=True))
    keys = Keys(
        np.array([one for one, _ in wanted], np.uint64),
        np.array([version for _, version in wanted], np.uint64),
        np.ones(len(wanted), np.uint64),
        np.ones(len(wanted), np.bool_),
    )
    last = {one: (number, version) for number, (one, version) in enumerate(entries)}
    expected = [last[one][0] if one in last and last[one][1] == version else -1 for one, version in wanted]
    assert matches(keys, ids, versions).tolist() == expected


@given(st.lists(words, min_size=5, max_size=5), st.integers(0, 5), st.integers(0, 63))
def test_a_flipped_bit_breaks_the_seal(entry, word, bit):
    whole = np.array([[*entry, seal(entry)]], np.uint64)
    assert sealed(whole).all()
    whole[0, word] ^= np.uint64(1 << bit)
    assert not sealed(whole).any()


def test_zeros_are_no_entry():
    assert not sealed(np.zeros((4, 6), np.uint64)).any()
