"""A job that joins a ring in the middle of others' epoch: it says where it began, and its first loop has a length."""

import pytest
import torch
from house import wait_until
from ring_fixtures import served_ring, turning
from torch.utils.data import DataLoader

import ringfeed
from ringfeed.torch import RingDataset, RingLoader

LENGTH, READ = 50, 7


@pytest.fixture
def busy():
    """A ring of which somebody has read seven batches of two pairs of the first epoch, and pauses."""
    with (
        served_ring(epoch_length=LENGTH) as served,
        turning(served),
        ringfeed.attach(served.name, batch_size=2, group="other", copy=True) as other,
    ):
        batches = iter(other)
        for _ in range(READ):
            next(batches)
        wait_until(lambda: served.service.ring.floor == 2 * READ)
        yield served.name, batches


def read_beside(loader, others):
    """Read an epoch, and let the other job read as much."""
    count = 0
    for _ in loader:
        count += 1
        next(others, None)
    return count


def loaders(ring):
    def dataset():
        return RingDataset(ring, batch_size=2, copy=True)

    return {
        "dataset": dataset,
        "loader": lambda: RingLoader(dataset()),
        "plain": lambda: DataLoader(dataset(), batch_size=None),
    }


@pytest.mark.parametrize("kind", ["dataset", "loader", "plain"])
def test_the_length_of_a_midway_loop_is_right(busy, kind):
    ring, others = busy
    loader = loaders(ring)[kind]()
    first = len(loader)
    assert first == (LENGTH - 2 * READ) // 2
    assert read_beside(loader, others) == first
    assert len(loader) == LENGTH // 2


@pytest.mark.parametrize("kind", ["loader", "plain"])
@pytest.mark.parametrize("touched", [False, True])
def test_lightning_never_joins_midway(busy, kind, touched):
    """It asks for the length once, and would cut every epoch to the rest of the one that was joined."""
    sized_len = pytest.importorskip("lightning.fabric.utilities.data").sized_len
    ring, _ = busy
    loader = loaders(ring)[kind]()
    dataset = loader.dataset
    if touched:
        assert (len(dataset.reader), len(loader)) == (18, 18)
    assert sized_len(loader) == LENGTH // 2
    assert (dataset.reader.epoch, dataset.reader.joined_midway) == (1, False)
    assert sized_len(loader) == len(loader) == LENGTH // 2
    dataset.close()


def test_lightning_keeps_a_start_that_was_chosen(busy):
    sized_len = pytest.importorskip("lightning.fabric.utilities.data").sized_len
    ring, _ = busy
    loader = RingLoader(RingDataset(ring, batch_size=2, start="now"))
    assert sized_len(loader) == 18
    loader.close()


def test_after_a_break_whole_epochs_count(busy):
    ring, others = busy
    loader = RingLoader(RingDataset(ring, batch_size=2, copy=True))
    for step, _ in enumerate(loader):
        assert len(loader) == 18
        if step == 2:
            break
    assert len(loader) == LENGTH // 2
    for _ in others:
        pass
    assert sum(1 for _ in loader) == LENGTH // 2
    next(iter(loader))
    assert len(loader) == LENGTH // 2
    loader.close()


def test_a_loader_counts_from_its_own_place(busy):
    """Though other processes read on."""
    ring, others = busy
    loader = RingLoader(RingDataset(ring, batch_size=2, copy=True))
    first = len(loader)
    next(others)
    next(others)
    assert len(loader) == first == read_beside(loader, others)
    loader.close()


def test_the_length_stays_constant_in_the_first_loop(busy):
    ring, others = busy
    with ringfeed.attach(ring, batch_size=2, copy=True) as reader:
        lengths = [len(reader) for _ in zip(reader, others, strict=False)]
        assert set(lengths[:-1]) == {(LENGTH - 2 * READ) // 2}, "after the last batch it is the next epoch's"


def test_joining_midway_is_logged_with_the_place(busy, caplog):
    ring, _ = busy
    with ringfeed.attach(ring, batch_size=2, group="late"):
        pass
    (record,) = (record for record in caplog.records if record.name == "ringfeed")
    said = record.getMessage()
    assert record.levelname == "WARNING"
    assert "epoch 0, position 14, 0 batches held) joined the ring in the middle of an epoch" in said
    assert 'its first loop has 18 batches. Pass start="epoch"' in said


@pytest.mark.parametrize("start", ["epoch", (1, 4)])
def test_a_job_with_its_own_start_joins_nothing(busy, caplog, start):
    ring, _ = busy
    with ringfeed.attach(ring, batch_size=2, start=start) as reader:
        assert len(reader) == LENGTH // 2
    assert "middle of an epoch" not in caplog.text


def test_an_early_length_binds_to_nothing(busy, monkeypatch):
    """One that is asked for before init_process_group."""
    ring, _ = busy
    loader = RingLoader(RingDataset(ring, batch_size=2))
    assert len(loader) == 18
    for name, value in (("is_initialized", True), ("get_rank", 1), ("get_world_size", 2), ("get_backend", "gloo")):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert (loader.dataset.reader.rank, len(loader)) == (0, 18)
    iter(loader)
    assert loader.dataset.reader.rank == 1
    assert len(loader) == 9
    loader.close()


@pytest.mark.parametrize("length", [LENGTH, LENGTH + 1])
def test_a_held_last_batch_is_no_middle(length):
    """Nobody has anything of the epoch left to take, so a second reader begins with the next one."""
    with served_ring(epoch_length=length) as served, turning(served):
        first, second = (RingLoader(RingDataset(served.name, batch_size=2)) for _ in range(2))
        for batch in first:  # noqa: B007  # the loop's variable holds it, as a trainer's does
            pass
        with ringfeed.attach(served.name, batch_size=2, start="now") as now:
            assert (now.epoch, now.joined_midway) == (0, True)
        assert second.state_dict()["epoch"] == 1
        assert len(second) == LENGTH // 2
        assert next(iter(second))[0].shape == batch[0].shape
        assert second.state_dict()["position"] == 2
        first.close()
        second.close()


def test_a_rank_ahead_of_others_hides_nothing():
    """The second rank of two may attach first, as a loader's workers do: its own block is not where they stand."""
    with served_ring(slots=64, epoch_length=40) as served, turning(served):
        with ringfeed.attach(served.name, batch_size=4, group="job", rank=1, world_size=2):
            state = RingDataset(served.name, batch_size=4).state_dict()
        assert (state["epoch"], state["position"]) == (0, 0)
