"""Sizes: rings fit into the memory there is, or one sentence says what is missing; the workers' shares add up."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfeedd.config import Config, resolve
from ringfeedd.decode.spec import DecodeSpec, LabelMode
from ringfeedd.errors import EXIT_COULD_NOT_START, StartError
from ringfeedd.shm.memory import reserved_bytes
from ringfeedd.supervisor.sizing import (
    LEAST_AUTO_SLOTS,
    LEAST_CONNECTIONS,
    MANY_AUTO_SLOTS,
    MOST_AUTO_SLOTS,
    READAHEAD_PAIRS,
    WORKERS_FILES,
    Room,
    Shares,
    connections,
    geometries,
    has_room,
    process_bytes,
    shares,
    total,
)
from ringfeedd.system.control_group import GroupMemory

GIB = 1 << 30


@pytest.mark.parametrize("free", [GIB // 8, GIB, 64 * GIB])
def test_default_slots_leave_half_the_memory_free(free):
    laid_out = geometries(resolve(Config(root="r")), DecodeSpec(224, 224), ["train", "test"], Room(free))
    assert LEAST_AUTO_SLOTS <= laid_out[0].slots <= MOST_AUTO_SLOTS * 1.125
    assert total(laid_out) <= free // 2


@pytest.mark.parametrize(
    ("size", "free", "slots"),
    [
        (32, 64 * GIB, MOST_AUTO_SLOTS),
        (64, 64 * GIB, MOST_AUTO_SLOTS),
        (224, 64 * GIB, MANY_AUTO_SLOTS),
        (32, GIB // 8, MANY_AUTO_SLOTS),
        (512, 64 * GIB, MANY_AUTO_SLOTS),
    ],
)
def test_small_slots_are_many_where_memory_is_plenty(size, free, slots):
    (geometry,) = geometries(resolve(Config(root="r")), DecodeSpec(size, size), ["train"], Room(free))
    assert slots <= geometry.slots < 1.125 * slots


@given(slots=st.integers(2, 3000), height=st.integers(1, 400), width=st.integers(1, 400), free=st.integers(0, GIB))
def test_rings_fit_free_memory_or_are_refused(slots, height, width, free):
    """With the bytes wanted, the bytes free and a way out."""
    config, spec = resolve(Config(root="r", slots=slots)), DecodeSpec(height, width, label_mode=LabelMode.GRAY16)
    (geometry,) = geometries(config, spec, ["train"], Room(1 << 40))
    assert geometry.slots >= slots
    if reserved_bytes(geometry) <= free:
        assert geometries(config, spec, ["train"], Room(free)) == [geometry]
        return
    with pytest.raises(StartError) as caught:
        geometries(config, spec, ["train"], Room(free))
    sentence = str(caught.value)
    assert list(map(int, re.findall(r"(\d+) bytes", sentence))) == [reserved_bytes(geometry), free]
    assert re.search(r"--shm-size=\d+g", sentence)
    assert "\n" not in sentence
    assert caught.value.exit_code == EXIT_COULD_NOT_START


def test_the_suggested_shm_size_is_enough():
    with pytest.raises(StartError) as caught:
        geometries(resolve(Config(root="r", slots=4096)), DecodeSpec(1000, 1000), ["train", "test"], Room(64 << 20))
    wanted = int(re.search(r"needs (\d+) bytes", str(caught.value))[1])
    gibibytes = int(re.search(r"--shm-size=(\d+)g", str(caught.value))[1])
    assert gibibytes * GIB >= wanted
    assert "the rings train, test with 4096 slots each" in str(caught.value)


def in_group(left, limit=8 * GIB):
    return Room(64 * GIB, GroupMemory("/a", "memory.max", limit, limit - left))


@pytest.mark.parametrize("left", [GIB, 3 * GIB])
def test_chosen_slots_leave_the_workers_their_memory(left):
    config, spec = resolve(Config(root="r", workers=2)), DecodeSpec(224, 224)
    laid_out = geometries(config, spec, ["train"], in_group(left))
    assert LEAST_AUTO_SLOTS <= laid_out[0].slots < 64 * GIB
    assert total(laid_out) + process_bytes(config, spec) <= left


def test_a_ring_beyond_the_groups_limit_is_refused():
    config, spec = resolve(Config(root="r", workers=2, slots=4096)), DecodeSpec(512, 512)
    with pytest.raises(StartError) as caught:
        geometries(config, spec, ["train"], in_group(4 * GIB))
    sentence = str(caught.value)
    wanted = total(geometries(config, spec, ["train"], Room(64 * GIB)))
    needed = process_bytes(config, spec)
    assert f"needs {wanted >> 20} MiB in /dev/shm" in sentence
    assert f"the daemon with 2 workers about {needed >> 20} MiB" in sentence
    assert "the control group /a may use 8192 MiB (memory.max), of which 4096 MiB are left" in sentence
    limit = int(re.search(r"--memory=(\d+)g", sentence)[1]) * GIB
    assert geometries(config, spec, ["train"], in_group(limit - 4 * GIB, limit)), "what it advises is enough"


def test_slots_have_room_where_the_fewest_fit():
    config, spec = resolve(Config(root="r", workers=2)), DecodeSpec(1000, 1000)
    least = total(geometries(resolve(Config(root="r", workers=2, slots=LEAST_AUTO_SLOTS)), spec, ["train"], Room(GIB)))
    assert has_room(config, spec, ["train"], Room(least))
    assert not has_room(config, spec, ["train"], Room(least - 1))
    assert not has_room(config, spec, ["train"], in_group(least))


def test_more_workers_need_more_of_the_control_group():
    spec = DecodeSpec(224, 224)
    assert (
        process_bytes(resolve(Config(root="r", workers=64)), spec)
        > process_bytes(resolve(Config(root="r", workers=2)), spec) + 4 * GIB
    )
    with pytest.raises(StartError, match="64 workers"):
        geometries(resolve(Config(root="r", workers=64, slots=16)), spec, ["train"], in_group(4 * GIB))


def test_label_modes_allocate_rows_of_their_decoded_size():
    rows = {
        mode: geometries(resolve(Config(root="r", slots=16)), DecodeSpec(8, 8, label_mode=mode), ["train"], Room(GIB))[
            0
        ].label
        for mode in LabelMode
    }
    assert {mode: (field.row_shape, field.dtype) for mode, field in rows.items()} == {
        LabelMode.RGB: ((8, 8, 3), "uint8"),
        LabelMode.INDEX: ((8, 8), "uint8"),
        LabelMode.GRAY16: ((8, 8), "uint16"),
    }


@given(
    workers=st.integers(1, 512),
    concurrency=st.integers(1, 4096),
    more=st.integers(0, 4096),
    rings=st.integers(1, 2),
    mean=st.floats(0, 1e10, allow_nan=False),
)
def test_workers_together_download_and_hold_what_was_asked(workers, concurrency, more, rings, mean):
    most = concurrency + more
    shape = shares(workers=workers, concurrency=concurrency, most_concurrency=most, rings=rings, mean_pair_bytes=mean)
    assert sum(shape.concurrency) == concurrency
    assert min(shape.concurrency) >= 1
    assert max(shape.concurrency) - min(shape.concurrency) <= 1
    assert sum(shape.most_concurrency) <= most
    assert all(own <= more for own, more in zip(shape.concurrency, shape.most_concurrency, strict=True))
    assert shape.workers == len(shape.concurrency) == len(shape.most_concurrency) == min(workers, concurrency)
    assert 1 <= shape.readahead <= max(most, READAHEAD_PAIRS)
    # Pairs that wait for room, all in one ring, leave every worker pairs to work on.
    assert shape.workers * shape.most_pairs > rings * shape.readahead + shape.workers
    assert shape.workers * (shape.most_pairs - shape.most_concurrency[0] // 2) > rings * shape.readahead


def test_large_pairs_are_not_read_far_ahead():
    """A far store is not asked for more of them."""

    def spread(mean_pair_bytes: float) -> Shares:
        return shares(workers=2, concurrency=128, most_concurrency=1024, rings=1, mean_pair_bytes=mean_pair_bytes)

    assert [spread(mean).readahead for mean in (75_000, 16 << 20, 1 << 40)] == [894, 4, 1]
    assert [spread(mean).most_concurrency[0] for mean in (75_000, 1 << 20, 1 << 40)] == [512, 128, 64]


@given(wanted=st.integers(1, 4096), files=st.integers(3, 70_000), workers=st.integers(1, 512), rings=st.integers(1, 2))
def test_connections_fit_the_open_files_limit(wanted, files, workers, rings):
    """Or the start is refused."""
    try:
        allowed = connections(wanted, files=files, workers=workers, rings=rings)
    except StartError as error:
        needed = int(re.search(r"needs (\d+) for", str(error))[1])
        assert files < needed
        assert connections(wanted, files=needed, workers=workers, rings=rings) == min(wanted, LEAST_CONNECTIONS)
    else:
        assert 1 <= allowed <= wanted
        assert allowed + WORKERS_FILES <= files


def test_few_requests_read_ahead_by_bytes():
    """A late object stops the stream once all pairs behind it have come: they are as many as memory allows."""

    def readahead(mean_pair_bytes: float) -> int:
        few = {"workers": 2, "concurrency": 8, "most_concurrency": 8, "rings": 1}
        return shares(**few, mean_pair_bytes=mean_pair_bytes).readahead

    assert [readahead(mean) for mean in (1000, 75_000, 1 << 20)] == [256, 256, 64]
