"""A loader's whole life: its state at any moment, iterations that overlap, every option, a look at the ring before."""

import copy
import json
import os
import pickle
import random
import uuid
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from house import Daemon, write_folder
from torch.utils.data import DataLoader, IterableDataset

import ringfeed
from ringfeed.reader.state import ResumeState
from ringfeed.torch import RingDataset, RingLoader, RingTensor

PAIRS = 24
BATCH = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


@pytest.fixture(scope="module")
def ring(folder):
    name = f"t{uuid.uuid4().hex[:10]}"
    arguments = ("--size", "24x32", "--label-mode", "index", "--slots", "64", "--linger-blocking-s", "0.2")
    with Daemon(str(folder), *arguments, ring=name):
        yield f"{name}-train"


@pytest.fixture
def make(ring):
    """Makes loaders whose items are (epoch, positions), and closes them."""
    made = []

    def make(workers=0, *, dataset=None, **options):
        dataset = dataset or RingDataset(ring, batch_size=BATCH, fields=("epoch", "positions"), drop_last=False)
        made.append(RingLoader(dataset, num_workers=workers, **options))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


def rows_of(items):
    return [(epoch, position) for epoch, positions in items for position in positions.tolist()]


def epoch_rows(epoch):
    return [(epoch, position) for position in range(PAIRS)]


def place(stateful):
    state = stateful.state_dict()
    assert set(state) == set(ResumeState.__dataclass_fields__)  # also before the first batch, since dcp loads in place
    return state["epoch"], state["position"]


# States.


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_is_available_at_any_moment(make, workers):
    loader = make(workers)
    assert place(loader) == (0, 0)
    batches = iter(loader)
    assert place(loader) == (0, 0)
    next(batches)
    assert place(loader) == (0, BATCH)
    for _ in batches:
        pass
    assert place(loader) == (1, 0)
    for _ in loader:
        break
    assert place(loader) == (1, BATCH)
    loader.close()
    assert place(loader) == (1, BATCH)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_after_set_epoch_begins_that_epoch(make, workers):
    loader = make(workers)
    loader.set_epoch(3)
    assert place(loader) == (3, 0)
    for _ in loader:
        break
    loader.set_epoch(np.int64(4))
    assert place(loader) == (4, 0)
    loader.set_epoch(7)
    assert place(loader) == (7, 0)
    assert rows_of(loader) == epoch_rows(7)
    loader.load_state_dict({**loader.state_dict(), "epoch": 1, "position": 8})
    assert place(loader) == (1, 8)


@pytest.mark.parametrize("epoch", [-1, 1.5, "3", None, 1 << 64])
def test_an_epoch_that_is_none_is_a_sentence(make, epoch):
    loader = make()
    loader.set_epoch(2)
    with pytest.raises(ValueError, match="whole number from 0"):
        loader.set_epoch(epoch)
    assert place(loader) == (2, 0)


def test_a_fresh_state_matches_others_on_the_ring(ring, make):
    with ringfeed.attach(ring, batch_size=BATCH) as reader:
        batches = iter(reader)
        for _ in range(3):
            next(batches)
        for start, epoch in (("auto", 0), ("now", 0), ("epoch", 1)):
            dataset = RingDataset(ring, batch_size=BATCH, start=start)
            assert place(make(2, dataset=dataset))[0] == epoch
        assert place(RingDataset(ring, batch_size=BATCH, start=(2, 5))) == (2, 5)


def test_a_fresh_state_needs_a_daemon():
    """Else the error is a sentence."""
    with pytest.raises(ringfeed.DaemonNotRunningError):
        RingLoader(RingDataset("nobody-serves-this", batch_size=1)).state_dict()


def test_a_forked_child_knows_where_its_parent_stood(make):
    loader = make()
    for _ in loader:
        break
    child = os.fork()
    if child == 0:
        os._exit(0 if place(loader) == (0, BATCH) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("method", ["fork", slow("spawn")])
def test_a_plain_workers_state_is_refused(ring, method):
    """One that only they know."""
    dataset = RingDataset(ring, batch_size=BATCH)
    assert place(copy.deepcopy(dataset)) == place(dataset) == (0, 0)  # a copy is no worker
    assert len(list(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=method))) == 6
    for stateful in (dataset, RingLoader(dataset)):
        with pytest.raises(RuntimeError, match="RingLoader"):
            stateful.state_dict()


@pytest.mark.parametrize("state", [None, [], [1], b"x", "state", 3, {}])
def test_what_is_no_state_is_a_sentence(make, state):
    loader = make()
    with pytest.raises(ringfeed.StateMismatchError, match="state_dict"):
        loader.load_state_dict(state)
    assert rows_of(loader) == epoch_rows(0)


CHECKPOINTED = {
    "json": lambda state: json.loads(json.dumps(state)),
    "numpy": lambda state: {k: np.int64(v) if type(v) is int else v for k, v in state.items()},
    "arrays": lambda state: {k: np.array(v) for k, v in state.items()},
    "tensors": lambda state: {k: torch.tensor(v) if not isinstance(v, str) else v for k, v in state.items()},
}


@pytest.mark.parametrize("way", CHECKPOINTED)
@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_may_change_their_type_in_a_checkpoint(make, workers, way):
    loader = make(workers)
    state = {**loader.state_dict(), "epoch": 1, "position": 20}
    loader.load_state_dict(CHECKPOINTED[way](state))
    assert loader.state_dict() == state
    assert rows_of(loader) == epoch_rows(1)[20:]


@pytest.mark.filterwarnings("ignore")  # torch's about a missing process group
@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_distributed_checkpoint_saves_and_loads_a_loader(make, tmp_path, workers):
    loader = make(workers)
    batches = iter(loader)
    next(batches)
    dcp.save({"loader": loader, "step": 1}, checkpoint_id=tmp_path / "saved")
    next(batches)
    dcp.async_save({"loader": loader}, checkpoint_id=tmp_path / "async").result()
    loader.close()
    del batches
    for name, taken in (("saved", 1), ("async", 2)):
        fresh = make(workers)
        dcp.load({"loader": fresh}, checkpoint_id=tmp_path / name)
        assert rows_of(fresh) == epoch_rows(0)[taken * BATCH :]
        fresh.close()


def test_a_loaded_state_survives_a_closed_reader(make):
    """One that stood in the way of another in its thread is closed, for example."""
    loader = make()
    for _ in loader:
        break
    state = loader.state_dict()
    loader.dataset.reader.close()
    assert loader.state_dict() == state
    loader.load_state_dict({**state, "epoch": 3})
    assert place(loader) == (3, BATCH)
    assert rows_of(loader) == epoch_rows(3)[BATCH:]


# Iterations that overlap.


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"workers": 2, "persistent_workers": True}], ids=str)
def test_a_superseded_iteration_raises_and_never_just_ends(make, options):
    loader = make(**options)
    with pytest.raises(ringfeed.SupersededError, match="make a RingDataset"):
        list(zip(loader, loader, strict=False))
    steps = []

    def nested():
        for epoch, _ in loader:
            steps.append(epoch)
            for _ in loader:
                break

    with pytest.raises(ringfeed.SupersededError):
        nested()
    assert len(steps) == 1
    (epoch,) = {epoch for epoch, _ in rows_of(loader)}
    assert epoch >= steps[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iteration_that_has_ended_stays_so(make, workers):
    loader = make(workers)
    first = iter(loader)
    assert rows_of(first) == epoch_rows(0)
    second = iter(loader)
    assert next(first, "ended") == "ended"
    assert rows_of(second) == epoch_rows(1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_loaded_in_mid_epoch_ends_iteration(make, workers):
    loader = make(workers)
    batches = iter(loader)
    next(batches)
    loader.load_state_dict({**loader.state_dict(), "epoch": 2, "position": 0})
    with pytest.raises(ringfeed.SupersededError, match="load_state_dict"):
        next(batches)
    assert rows_of(loader) == epoch_rows(2)


def test_two_datasets_make_passes_of_their_own(make):
    rows = [(rows_of([a]), rows_of([b])) for a, b in zip(make(), make(), strict=True)]
    assert rows == [(epoch_rows(0)[n : n + BATCH],) * 2 for n in range(0, PAIRS, BATCH)]


# Options.


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 8},
        {"drop_last": True},
        {"shuffle": True},
        {"sampler": [0]},
        {"batch_sampler": [[0]]},
        {"in_order": False, "num_workers": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_that_others_decide_is_refused(ring, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RingLoader(RingDataset(ring, batch_size=BATCH), **options)


def test_a_loader_of_something_else_is_a_sentence():
    with pytest.raises(TypeError, match="wraps a RingDataset"):
        RingLoader([1, 2, 3])


def tagged(item):
    return {"tag": "mine", "item": item}


def seed(worker):
    torch.manual_seed(worker)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {
            "workers": 0,
            "batch_size": None,
            "shuffle": False,
            "sampler": None,
            "batch_sampler": None,
            "drop_last": False,
        },
        {"workers": 0, "in_order": False, "pin_memory": True},
        {"workers": 1, "in_order": False},
        {"workers": 2, "prefetch_factor": 1, "timeout": 60, "worker_init_fn": seed, "pin_memory": True},
        slow({"workers": 1, "multiprocessing_context": "forkserver", "generator": torch.Generator()}),
        slow({"workers": 1, "multiprocessing_context": "spawn", "prefetch_factor": 4}),
    ],
    ids="-".join,
)
def test_every_other_option_is_a_dataloaders(make, options):
    loader = make(collate_fn=tagged, **options)
    for epoch in range(2):
        items = list(loader)
        assert {item["tag"] for item in items} == {"mine"}
        assert rows_of(item["item"] for item in items) == epoch_rows(epoch)
        assert place(loader) == (epoch + 1, 0)


@pytest.mark.parametrize("options", [{}, {"workers": 2, "persistent_workers": True}], ids=str)
def test_a_loader_is_pickled_copied_and_made_again(make, options):
    loader = make(**options)
    assert rows_of(loader) == epoch_rows(0)
    for other in (pickle.loads(pickle.dumps(loader)), copy.deepcopy(loader)):
        assert place(other) == (1, 0)
    loader.close()
    again = RingLoader(loader.dataset, collate_fn=loader.collate_fn, num_workers=2)
    assert rows_of(again) in (epoch_rows(0), epoch_rows(1))
    again.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_another_dataloader_of_its_dataset_yields_the_same(make, workers):
    loader = make(workers)
    assert rows_of(loader) == epoch_rows(0)
    other = DataLoader(loader.dataset, batch_size=None, num_workers=workers, collate_fn=loader.collate_fn)
    assert rows_of(other) == epoch_rows(1)


@pytest.mark.parametrize("copies", [False, True])
def test_images_can_be_contiguous(ring, copies):
    dataset = RingDataset(ring, batch_size=BATCH, channels_last=False, copy=copies)
    other = RingDataset(ring, batch_size=BATCH, copy=copies)
    for (image, label), (expected, _) in zip(dataset, other, strict=True):
        assert image.is_contiguous()
        assert not expected.is_contiguous()
        assert torch.equal(image, expected)
        image.add_(1)  # it is the caller's own
        assert isinstance(label, RingTensor) is not copies
        del image, label, expected, _
    dataset.close()
    other.close()


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"workers": 2, "persistent_workers": True}], ids=str)
def test_a_look_at_the_first_batch_is_undone(make, options):
    loader = make(**options)
    assert rows_of([next(iter(loader))]) == epoch_rows(0)[:BATCH]
    assert place(loader) == (0, BATCH)
    for epoch in range(2):
        assert rows_of(loader) == epoch_rows(epoch)


# All of it, in any order.


class Life:
    """A loader, and what its state and its next iteration have to be."""

    def __init__(self, ring, chance):
        self.ring, self.chance = ring, chance
        self.begins, self.done = (0, 0), []
        self.new()

    def new(self):
        workers = self.chance.choice([0, 0, 1, 2])
        options = {"persistent_workers": self.chance.random() < 0.4} if workers else {}
        size = self.chance.choice([3, 4, 5])
        dataset = RingDataset(self.ring, batch_size=size, fields=("epoch", "positions"), drop_last=False)
        self.loader = RingLoader(dataset, num_workers=workers, **options)
        self.done.append(("new", workers, options, size))

    def step(self):
        kind = self.chance.choice([self.loop, self.leave, self.choose, self.load, self.resume, self.begin])
        self.done.append(kind.__name__)
        kind()

    def loop(self):
        assert rows_of(self.loader) == epoch_rows(self.begins[0])[self.begins[1] :]
        self.begins = (self.begins[0] + 1, 0)
        assert place(self.loader) == self.begins

    def leave(self):
        batches, taken = iter(self.loader), self.chance.randint(1, 3)
        rows = rows_of([batch for _, batch in zip(range(taken), batches, strict=False)])
        epoch, position = self.begins
        assert rows == epoch_rows(epoch)[position : position + len(rows)]
        stands = (epoch, position + len(rows))
        ended = stands[1] == PAIRS
        assert place(self.loader) == ((epoch + 1, 0) if ended else stands)
        if taken > 1:  # else it was a look
            self.begins = (epoch + 1, 0)

    def choose(self):
        epoch = self.begins[0] + self.chance.randint(0, 2)
        self.loader.set_epoch(epoch)
        if epoch != self.begins[0]:
            self.begins = (epoch, 0)
        assert place(self.loader) == self.begins

    def load(self):
        self.begins = (self.chance.randint(0, 3), self.chance.randint(0, PAIRS - 1))
        changed = {"epoch": self.begins[0], "position": self.begins[1]}
        self.loader.load_state_dict({**self.loader.state_dict(), **changed})
        assert place(self.loader) == self.begins

    def resume(self):
        state = self.loader.state_dict()
        self.loader.close()
        assert self.loader.state_dict() == state
        self.new()
        self.loader.load_state_dict(state)
        self.begins = place(self.loader)

    def begin(self):
        assert iter(self.loader) is not None


@pytest.mark.parametrize("seed", [1, 2, *(slow(seed) for seed in range(3, 12))])
def test_a_loaders_life_follows_its_model(ring, seed):
    chance = random.Random(seed)
    for _ in range(8):
        life = Life(ring, chance)
        try:
            for _ in range(chance.randint(2, 6)):
                life.step()
        except BaseException as error:
            error.add_note(f"its life: {life.done}")
            raise
        finally:
            life.loader.close()


# A look at the ring in the main process, then workers.

LOOKS = {
    "reader": lambda dataset: dataset.reader.descriptor,
    "length": len,
    "a batch": lambda dataset: next(iter(dataset)),
    "a batch of a loader": lambda dataset: next(iter(RingLoader(dataset))),
    "an epoch": list,
}


@pytest.mark.parametrize("look", LOOKS)
def test_looking_at_the_ring_does_not_hang_workers(make, look):
    loader = make(2, timeout=30)
    LOOKS[look](loader.dataset)
    epochs = [rows_of(loader) for _ in range(2)]
    assert epochs[0][0][0] <= 1
    assert epochs == [epoch_rows(epochs[0][0][0]), epoch_rows(epochs[0][0][0] + 1)]


@pytest.mark.parametrize("method", ["fork", slow("spawn"), slow("forkserver")])
@pytest.mark.parametrize("look", ["reader", "a batch"])
def test_looking_at_the_ring_leaves_plain_workers_running(ring, look, method):
    dataset = RingDataset(ring, batch_size=BATCH, fields=("epoch", "positions"), drop_last=False)
    LOOKS[look](dataset)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context=method, timeout=60)
    assert rows_of(loader) == epoch_rows(0)
    assert rows_of(loader) == epoch_rows(1)


def test_plain_workers_that_were_wrapped_are_a_sentence(ring):
    """Whoever wraps the dataset hides it from the process that starts the workers."""

    class Wrapped(IterableDataset):
        def __init__(self, dataset):
            self.dataset = dataset

        def __iter__(self):
            return iter(self.dataset)

    dataset = RingDataset(ring, batch_size=BATCH, fields=("epoch", "positions"), drop_last=False)
    assert dataset.reader.epoch == 0
    loader = DataLoader(Wrapped(dataset), batch_size=None, num_workers=2)
    with pytest.raises(RuntimeError, match=r"dataset\.close\(\)"):
        next(iter(loader))
    dataset.close()
    assert rows_of(loader) == epoch_rows(0)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("options", [{}, {"batch_size": 8}], ids=str)
def test_batches_of_batches_are_a_sentence(ring, options, workers):
    with pytest.raises(ValueError, match="batch_size=None"):
        next(iter(DataLoader(RingDataset(ring, batch_size=BATCH), num_workers=workers, **options)))


# torchdata's loader.


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}], ids=str)
def test_a_stateful_loader_continues_after_an_epochs_end(ring, options):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        dataset = RingDataset(ring, batch_size=BATCH, fields=("epoch", "positions"), drop_last=False, group=group)
        return stateful.StatefulDataLoader(dataset, batch_size=None, **options)

    group = uuid.uuid4().hex
    first = loader()
    assert rows_of(first) == epoch_rows(0)
    states = [pickle.loads(pickle.dumps(first.state_dict()))]
    assert rows_of(first) == epoch_rows(1)
    states.append(first.state_dict())
    first.dataset.close()
    del first
    for state, epoch in ((states[0], 1), (states[1], 2)):
        other = loader()
        other.load_state_dict(state)
        assert rows_of(other) == epoch_rows(epoch)
        assert rows_of(other) == epoch_rows(epoch + 1)
        other.dataset.close()
        del other


def test_no_loader_warns(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for workers in (0, 2):
            loader = make(workers)
            assert rows_of(loader) == epoch_rows(0)
            loader.close()


# Two loaders in one process.


@pytest.mark.parametrize("kind", [RingLoader, DataLoader])
def test_an_idle_reader_makes_way_for_workers(folder, caplog, kind):
    """A loop that was broken off keeps the slots that the next loader's workers need."""
    name = f"t{uuid.uuid4().hex[:10]}"
    with Daemon(str(folder), "--size", "24x32", "--slots", "24", "--test-ratio", "0", ring=name):
        earlier, later = (
            RingDataset(f"{name}-train", batch_size=BATCH, fields=("epoch", "positions"), drop_last=False)
            for _ in range(2)
        )
        for step, _ in enumerate(earlier):
            if step == 1:
                break
        batch_size = {"batch_size": None} if kind is DataLoader else {}
        loader = kind(later, num_workers=2, timeout=20, **batch_size)
        rows = rows_of(loader)
        assert sorted(rows) == epoch_rows(rows[0][0])
        assert "a DataLoader's workers that begin in the same thread need its slots" in caplog.text
        del loader
        later.close()
        assert len({position for _, position in rows_of(earlier)}) == PAIRS
        earlier.close()


def test_a_loop_under_way_makes_no_way(folder):
    name = f"t{uuid.uuid4().hex[:10]}"
    with Daemon(str(folder), "--size", "24x32", "--slots", "48", "--test-ratio", "0", ring=name):
        first, second = (
            RingDataset(f"{name}-train", batch_size=BATCH, fields=("epoch", "positions"), drop_last=False)
            for _ in range(2)
        )
        reads = iter(first)
        rows = rows_of([next(reads)])
        loader = RingLoader(second, num_workers=2, timeout=20)
        pairs = list(zip(reads, loader, strict=False))
        assert rows + rows_of(pair[0] for pair in pairs) == epoch_rows(0)
        loader.close()
        first.close()
