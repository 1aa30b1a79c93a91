"""The places of a DataLoader's workers: kept from one iteration to the next, and given up with their dataset."""

from __future__ import annotations

import gc
import time

import pytest
from house import finish, trainer, wait_until
from ring_fixtures import served_ring, turning
from torch.utils.data import DataLoader

import ringfeed
from ringfeed.torch import RingDataset, RingLoader

LENGTH = 24
BATCH = 4
SOON_S = 4.0
"""Less than places are kept for: by the daemon's clock, which these tests let run a hundred times slower than ours."""


@pytest.fixture
def served():
    with served_ring(slots=32, lanes=8, epoch_length=LENGTH) as served, turning(served, seconds=2e-5):
        yield served


@pytest.fixture
def ring(served):
    return served.name


def dataset_of(ring):
    return RingDataset(ring, batch_size=BATCH, fields=("epoch", "positions"), drop_last=False)


def rows(items):
    return sorted((epoch, position) for epoch, positions in items for position in positions.tolist())


def epoch_rows(epoch):
    return [(epoch, position) for position in range(LENGTH)]


def begin_at_once(ring):
    """Attach as another group; fails where that has to wait."""
    began = time.monotonic()
    with ringfeed.attach(ring, batch_size=BATCH, drop_last=False) as reader:
        assert (reader.epoch, reader.joined_at) == (0, (0, 0))
        assert time.monotonic() - began < SOON_S
        next(iter(reader))


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("left_at", [1, None])
def test_closed_loader_keeps_no_place(ring, persistent, left_at):
    """Closed in the middle of an epoch, or at its end; a later iteration of it goes on after its state all the same."""
    loader = RingLoader(dataset_of(ring), num_workers=2, persistent_workers=persistent)
    assert rows(loader) == epoch_rows(0)
    for number, _ in enumerate(loader):
        if number == left_at:
            break
    loader.close()
    begin_at_once(ring)
    assert rows(loader) == epoch_rows(2)
    loader.close()


def test_plain_workers_keep_their_place_until_close(served, ring):
    dataset = dataset_of(ring)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for epoch in range(3):
        assert rows(loader) == epoch_rows(epoch)
    wait_until(lambda: served.service.groups.lingering == 1)
    dataset.close()
    begin_at_once(ring)


def test_dataset_that_is_gone_keeps_no_place(ring):
    """A function's own loader: the next one of this process begins at once, also by workers with a time limit."""

    def train():
        loader = DataLoader(dataset_of(ring), batch_size=None, num_workers=2)
        assert rows(loader) == epoch_rows(0)

    train()
    gc.collect()
    following = DataLoader(dataset_of(ring), batch_size=None, num_workers=2, timeout=SOON_S)
    assert rows(following) == epoch_rows(0)
    begin_at_once_in_this_process = dataset_of(ring)
    del following
    gc.collect()
    began = time.monotonic()
    assert rows(begin_at_once_in_this_process) == epoch_rows(0)
    assert time.monotonic() - began < SOON_S
    begin_at_once_in_this_process.close()


JOB = """
import sys
from torch.utils.data import DataLoader
from ringfeed.torch import RingDataset
loader = DataLoader(RingDataset(sys.argv[1], batch_size=4, fields=("epoch",)), batch_size=None, num_workers=2)
print(sum(1 for _ in loader))
assert sys.argv[2] == "ends"
"""


@pytest.mark.parametrize("end", ["ends", "fails"])
def test_process_that_ends_well_keeps_no_place(served, ring, end):
    """One that fails may be started again from its state, so its place is kept."""
    process = trainer(JOB, ring, end)
    if end == "fails":
        assert "AssertionError" in process.communicate(timeout=60)[0]
        wait_until(lambda: served.service.groups.lingering == 1)
    else:
        assert finish(process) == "6\n"
        begin_at_once(ring)
