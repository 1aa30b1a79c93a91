"""A batch: what is read of it only when it is asked for, and what is left of it once its slots are given back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from ring_fixtures import Served, served_ring, turning

import ringfeed

SLOTS, BATCH, EPOCH = 16, 4, 1000


@pytest.fixture
def served() -> Iterator[Served]:
    with served_ring(slots=SLOTS, epoch_length=EPOCH) as one, turning(one):
        yield one


def ids_of(batch: ringfeed.Batch) -> list[str]:
    return [f"größe/{1000 + position}" for position in batch.positions]


def let_the_ring_come_round(batches: Iterator[ringfeed.Batch]) -> None:
    for batch in islice(batches, 2 * SLOTS // BATCH):
        del batch


def test_a_held_batch_tells_its_pairs_later(served):
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batches = iter(reader)
        held = next(batches)
        for batch in islice(batches, SLOTS // BATCH - 1):
            del batch
        assert held.ids == ids_of(held)
        assert held.valid.tolist() == [True] * BATCH
        assert (len(held), held.epoch, held.seqs.tolist()) == (BATCH, 0, [0, 1, 2, 3])


def test_a_copy_tells_its_pairs_much_later(served):
    """When the ring has long moved on."""
    with ringfeed.attach(served.name, batch_size=BATCH, copy=True) as reader:
        batches = iter(reader)
        copy = next(batches)
        pixels = copy.image.copy()
        let_the_ring_come_round(batches)
        assert copy.ids == ids_of(copy)
        assert copy.valid.tolist() == [True] * BATCH
        assert np.array_equal(copy.image, pixels)


def test_a_released_batch_keeps_words_and_no_pixels(served):
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batches = iter(reader)
        asked, unasked = next(batches), next(batches)
        ids = asked.ids
        asked.release()
        unasked.release()
        unasked.release()
        let_the_ring_come_round(batches)
        assert asked.ids == ids == ids_of(asked)
        assert unasked.valid.tolist() == [True] * BATCH
        assert unasked.positions.tolist() == [4, 5, 6, 7]
        assert "released" in repr(unasked)
        for name in ("image", "label", "ids"):
            with pytest.raises(ringfeed.ReleasedError, match="before, or attach with copy=True"):
                getattr(unasked, name)


def test_a_rank_without_pairs_gets_an_invalid_one():
    """It is another rank's."""
    shape = {"batch_size": 2, "group": "two", "world_size": 2, "drop_last": False}
    with (
        served_ring(slots=SLOTS, epoch_length=5) as served,
        turning(served),
        ringfeed.attach(served.name, rank=0, **shape) as first,
        ringfeed.attach(served.name, rank=1, **shape) as second,
    ):
        steps = [(mine.valid.tolist(), yours.valid.tolist()) for mine, yours in zip(first, second, strict=True)]
    assert steps == [([True, True], [True, True]), ([True], [False])]


def by_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, by_pickle])
def test_a_copied_batch_has_memory_of_its_own(served, copied: Callable[[Any], Any]):
    with ringfeed.attach(served.name, batch_size=BATCH) as reader:
        batches = iter(reader)
        batch = next(batches)
        one, image = copied(batch), batch.image.copy()
        expected = (ids_of(batch), batch.epoch, batch.seqs.tolist())
        batch.release()
        let_the_ring_come_round(batches)
        assert np.array_equal(one.image, image)
        assert (one.ids, one.epoch, one.seqs.tolist()) == expected
        assert one.valid.all()
        one.image[:] = 0
        with pytest.raises(ringfeed.ReleasedError):
            copied(batch)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, by_pickle])
def test_a_reader_refuses_to_be_copied(served, copied: Callable[[Any], Any]):
    with ringfeed.attach(served.name, batch_size=BATCH) as reader, pytest.raises(TypeError, match="send a RingDataset"):
        copied(reader)
