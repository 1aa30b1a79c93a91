"""What a user may pass by habit: arguments of other types, and a dataset that is taken for one with numbers."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ring_fixtures import served_ring
from torch.utils.data import DataLoader, Subset, random_split

import ringfeed
from ringfeed.torch import RingDataset, RingLoader, get_async_dataloaders

WHOLE = "it must be a whole number of at least"

ARGUMENTS = [
    *(("batch_size", value, f"batch_size is {value!r}; {WHOLE} 1") for value in (0, -1, "8", None, 2.0, True)),
    ("transform", "resize", "transform is 'resize'; it must be a function, or None"),
    ("drop_last", "no", "drop_last is 'no'; it must be True or False"),
]


@pytest.mark.parametrize(("name", "value", "told"), ARGUMENTS)
def test_an_argument_of_another_type_is_a_sentence(name, value, told):
    usual = {"batch_size": 2, name: value}
    told = re.escape(told)
    with pytest.raises(ValueError, match=told):
        RingDataset("train", **usual)
    with pytest.raises(ValueError, match=told):  # before a daemon is looked for
        get_async_dataloaders("/nowhere", **usual)
    if name != "transform":
        with pytest.raises(ValueError, match=told):
            ringfeed.attach("nowhere", **usual)


@pytest.mark.parametrize("value", [-1, "2", None, 1.5])
def test_an_invalid_worker_count_is_a_sentence(value):
    with pytest.raises(ValueError, match=f"num_workers is .*; {WHOLE} 0"):
        RingLoader(RingDataset("train", batch_size=2), num_workers=value)
    with pytest.raises(ValueError, match=f"num_workers is .*; {WHOLE} 0"):
        get_async_dataloaders("/nowhere", 2, num_workers=value)


@pytest.mark.parametrize(("rank", "world_size"), [("0", 2), (0, "2"), (0, 2.0), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_ranks_as_texts_are_a_sentence(rank, world_size):
    """As `os.environ` has them."""
    with pytest.raises(ValueError, match=r"rank|world_size"):
        RingDataset("train", batch_size=2, rank=rank, world_size=world_size)


def test_numbers_of_other_libraries_are_numbers():
    dataset = RingDataset("train", batch_size=np.int64(2), drop_last=np.bool_(True))
    assert (type(dataset.batch_size), type(dataset.drop_last)) == (int, bool)
    assert RingDataset("train", batch_size=torch.tensor(4)).batch_size == 4
    assert RingLoader(dataset, num_workers=np.int32(1)).num_workers == 1


@pytest.mark.parametrize(
    ("root", "told"),
    [
        (None, 'root = None: must be a text, e.g. "gs://bucket/prefix" or a folder'),
        (5, 'root = 5: must be a text, e.g. "gs://bucket/prefix" or a folder'),
        (["/data"], r"root = \[\.\.\.\]: must be a text, e\.g\."),
        ("", "root is empty"),
        (b"/nowhere/at/all", "There is no folder /nowhere/at/all"),
        (Path("/nowhere/at/all"), "There is no folder /nowhere/at/all"),
    ],
)
def test_a_root_that_is_none_is_a_sentence(root, told):
    with pytest.raises(ringfeed.RingfeedError, match=told):
        get_async_dataloaders(root, 2)


@pytest.mark.parametrize("size", [32, (32, 32), [32, 32]])
def test_a_numeric_size_is_answered_with_its_spelling(size):
    with pytest.raises(ringfeed.RingfeedError, match=r'size = .*: must be a text, e\.g\. "224x224" \(height x width'):
        get_async_dataloaders("/nowhere", 2, size=size)


# A dataset without numbers.


@pytest.fixture(scope="module")
def dataset():
    with served_ring() as served:
        yield RingDataset(served.name, batch_size=4)


@pytest.mark.parametrize(
    "index",
    [
        lambda dataset: dataset[0],
        lambda dataset: dataset[1:3],
        lambda dataset: random_split(dataset, [0.5, 0.5])[0][0],
        lambda dataset: Subset(dataset, [0, 1])[[0, 1]],
        lambda dataset: next(iter(DataLoader(Subset(dataset, [0, 1]), batch_size=None))),
    ],
)
def test_an_item_by_number_is_a_sentence(dataset, index):
    with pytest.raises(NotImplementedError, match=r"has no items by number.*Iterate over it.*read the test ring"):
        index(dataset)


def test_a_loaders_sampler_says_what_to_use_instead(dataset):
    loader = RingLoader(dataset)
    with pytest.raises(TypeError, match=r"len\(loader\) is the number of batches"):
        len(loader.sampler)
    with pytest.raises(AttributeError, match=r"has no set_epoch.*use loader.set_epoch\(epoch\)"):
        loader.sampler.set_epoch(1)
    assert not hasattr(pickle.loads(pickle.dumps(loader)).sampler, "set_epoch"), "frameworks ask that"
    assert next(iter(loader.sampler)) is None
