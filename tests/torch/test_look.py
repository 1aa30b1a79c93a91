"""A look at one batch costs nothing: the iteration that is left after its first batch is taken back by the next one."""

import json
import multiprocessing
import threading
import time

import pytest
from house import Daemon, finish, trainer, wait_until, write_folder
from ring_fixtures import served_ring, turning, unique_ring_name
from torch.utils.data import DataLoader

import ringfeed
from ringfeed.shm.control import open_control
from ringfeed.shm.counters import RingCounts
from ringfeed.shm.counters import read as read_counts
from ringfeed.shm.layout import Lane, State
from ringfeed.torch import RingDataset, RingLoader
from ringfeed.torch.workers.requests import Requests
from ringfeedd.ring.groups import Groups

LENGTH = 50


@pytest.fixture
def served():
    with served_ring(epoch_length=LENGTH) as served, turning(served):
        yield served


def place(batch):
    return batch.epoch, int(batch.positions[0])


def whole(epoch, batch=2):
    return [(epoch, position) for position in range(0, LENGTH, batch)]


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("looks", [1, 3])
def test_an_epoch_after_a_look_is_read_whole(served, looks, copy):
    with ringfeed.attach(served.name, batch_size=2, copy=copy) as reader:
        for epoch in range(3):
            for _ in range(looks):
                assert place(next(iter(reader))) == (epoch, 0)
            assert [place(batch) for batch in reader] == whole(epoch)


def test_a_batch_after_a_look_comes_again(served):
    """It is held meanwhile."""
    with ringfeed.attach(served.name, batch_size=2) as reader:
        looked = next(iter(reader))
        batches = iter(reader)
        again = next(batches)
        assert looked.image.base is not None
        assert (again.image == looked.image).all()
        del looked, again
        assert [place(batch) for batch in batches] == whole(0)[1:]


def test_leaving_after_two_batches_begins_the_next_epoch(served):
    with ringfeed.attach(served.name, batch_size=2) as reader:
        for _, _batch in zip(range(2), iter(reader), strict=False):
            pass
        del _batch
        assert [place(batch) for batch in reader] == whole(1)


def test_a_look_after_a_loaded_state_restarts_there(served):
    with ringfeed.attach(served.name, batch_size=2) as reader:
        state = {**reader.state_dict(), "epoch": 1, "position": 40}
        reader.load_state_dict(state)
        assert place(next(iter(reader))) == (1, 40)
        assert [place(batch) for batch in reader] == whole(1)[20:]


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0), (1, 1), (4, 4)])
def test_set_epoch_after_a_look_is_obeyed(served, epoch, expected):
    with ringfeed.attach(served.name, batch_size=2) as reader:
        next(iter(reader))
        reader.set_epoch(epoch)
        assert [place(batch) for batch in reader] == whole(expected)


def test_a_state_counts_a_batch_of_a_look(served):
    with ringfeed.attach(served.name, batch_size=2) as reader:
        next(iter(reader))
        assert reader.state_dict()["position"] == 2


def test_an_epoch_of_one_batch_allows_a_look():
    with served_ring(epoch_length=2) as served, turning(served), ringfeed.attach(served.name, batch_size=2) as reader:
        assert place(next(iter(reader))) == (0, 0)
        assert [place(batch) for _ in range(3) for batch in reader] == [(0, 0), (1, 0), (2, 0)]


def test_the_daemon_keeps_a_looks_slots(served):
    """Its reader asks for no more."""
    with ringfeed.attach(served.name, batch_size=2) as reader:
        page = reader._delivery.attachment.page
        next(iter(reader))
        assert (page[Lane.TAKEN], page[Lane.RELEASED]) == (2, 0)
        batches = iter(reader)
        assert (page[Lane.TAKEN], page[Lane.RELEASED]) == (0, 0)
        wait_until(lambda: next(iter(served.service.groups)).members[0].place.seq == 0)
        first, second = next(batches), next(batches)
        del first
        assert (page[Lane.TAKEN], page[Lane.RELEASED]) == (4, 2)
        del second


def test_a_rank_that_looks_costs_its_group_nothing(served):
    """In a ring of a few rounds; the ranks step together."""
    taken, step = {0: [], 1: []}, threading.Barrier(2, timeout=20)

    def read(rank):
        with ringfeed.attach(
            served.name, batch_size=2, group="job", rank=rank, world_size=2, drop_last=False
        ) as reader:
            if rank == 0:
                next(iter(reader))
            for _ in range(2):
                for batch in reader:
                    taken[rank].append(place(batch))
                    del batch
                    step.wait()

    threads = [threading.Thread(target=read, args=(rank,)) for rank in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken[0] + taken[1])[:4] == [(0, 0), (0, 2), (0, 4), (0, 6)]
    assert [len(places) for places in taken.values()] == [26, 26]


def test_a_reader_killed_after_a_look_skips_it(served):
    """It is not given that batch again."""
    with served_ring(groups=Groups(linger_s=1e9)) as patient, turning(patient):
        script = (
            "import logging, os, sys, ringfeed\nringfeed.process_number = lambda _: 7\nlogging.disable()\n"
            "reader = ringfeed.attach(sys.argv[1], batch_size=2, group='job')\n"
            "print(next(iter(reader)).positions[0], flush=True)\n"
            "sys.stdin.readline()\nos.kill(os.getpid(), 9)\n"
        )
        for expected in (0, 2):
            victim = trainer(script, patient.name)
            assert victim.stdout.readline() == f"{expected}\n"
            victim.communicate("\n")
            wait_until(lambda: not patient.service.groups.lanes())


@pytest.mark.parametrize("kind", [RingLoader, DataLoader])
def test_a_look_through_a_loader_costs_nothing(served, kind):
    options = {} if kind is RingLoader else {"batch_size": None}
    loader = kind(RingDataset(served.name, batch_size=2, fields=("epoch", "positions")), **options)
    next(iter(loader))
    assert [epoch for epoch, _ in loader] == [0] * 25
    loader.dataset.close()


# Through a DataLoader's workers, which read ahead.

ROUNDS = 3
ROUND = 4 * 4  # 2 ranks with 2 workers each, in batches of 4


@pytest.fixture(scope="module")
def smallest_ring(tmp_path_factory):
    """A ring of two rounds, the fewest that a group may read."""
    name, folder = unique_ring_name(), write_folder(tmp_path_factory.mktemp("set"), ROUNDS * ROUND)
    with Daemon(str(folder), "--size", "24x32", "--slots", str(2 * ROUND), "--workers", "1", ring=name):
        yield f"{name}-train"


def loader_of_rank(ring, group, rank, **options):
    dataset = RingDataset(
        ring, batch_size=4, fields=("epoch", "positions"), drop_last=False, group=group, rank=rank, world_size=2
    )
    return RingLoader(dataset, num_workers=2, timeout=60, **options)


def look_and_leave(loader, how):
    """Return what somebody keeps of the look: an iterator, a traceback, or nothing."""
    batches = iter(loader)
    next(batches)
    try:
        if how == "exception":
            raise ZeroDivisionError
    except ZeroDivisionError as error:
        return error
    return batches if how == "kept" else None


def train(loader, step, epochs=2):
    rows = []
    for _ in range(epochs):
        for epoch, positions in loader:
            rows += [(epoch, position) for position in positions.tolist()]
            step.wait(60)
    return rows


@pytest.mark.parametrize(
    "how", ["left", "kept", "exception", "later", pytest.param("persistent", marks=pytest.mark.slow)]
)
def test_a_look_through_workers_costs_other_ranks_nothing(smallest_ring, how):
    """Rank 0 goes on once rank 1 has taken a batch, which waits for rank 0 with the next one."""
    fork = multiprocessing.get_context("fork")  # Torch is imported here, so that costs little
    step, looked, taken, results = fork.Barrier(2), fork.Event(), fork.Event(), fork.SimpleQueue()
    earlier = ROUNDS if how == "later" else 0

    def read(rank):
        loader = loader_of_rank(smallest_ring, f"job-{how}", rank, persistent_workers=how == "persistent")
        rows = train(loader, step, epochs=1) if earlier else []
        if rank == 0:
            kept = look_and_leave(loader, how)
            looked.set()
            assert taken.wait(60)
            rows += train(loader, step)
            del kept
        else:
            assert looked.wait(60)
            first = iter(loader)
            rows += [(epoch, position) for epoch, positions in [next(first)] for position in positions.tolist()]
            taken.set()
            step.wait(60)
            for epoch, positions in first:
                rows += [(epoch, position) for position in positions.tolist()]
                step.wait(60)
            rows += train(loader, step, epochs=1)
        loader.close()
        results.put(rows)

    ranks = [fork.Process(target=read, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    rows = sorted(results.get() + results.get())
    epochs = range(2 + bool(earlier))
    assert rows == [(epoch, position) for epoch in epochs for position in range(ROUNDS * ROUND)]


def test_workers_that_wait_end_with_a_look(smallest_ring):
    """They wait for the slots that they keep for the next iteration; torch would kill them after 5 s."""
    loader = RingLoader(RingDataset(smallest_ring, batch_size=8, fields=("epoch",)), num_workers=2)
    control = open_control(smallest_ring)
    killed = read_counts(RingCounts, control.word).lane_deaths
    next(iter(loader))
    wait_until(lambda: not any(control.lane(n)[Lane.ANSWER_NONCE] for n in range(control.geometry.lanes)))
    left = time.monotonic_ns()
    wait_until(lambda: control.word(State.HEARTBEAT_NS) > left)
    assert read_counts(RingCounts, control.word).lane_deaths == killed
    control.close()
    assert list(loader) == [0] * (ROUNDS * ROUND // 8)
    loader.close()


def test_a_request_is_remembered_for_two_iterations():
    """Until the second next one begins."""
    requests = Requests()
    known = []
    for asked in (2, 1, 0):
        requests.begin()
        known.append(requests.latest())
        for _ in range(asked):
            requests.ask()
        assert not known[-1].has_ended()
        if len(known) > 1:
            assert known[-2].has_ended()
            assert known[-2].is_look() == (len(known) == 3)
        requests.end()
        assert known[-1].has_ended()
        assert known[-1].is_look() == (asked < 2)


def test_a_main_process_look_leaves_the_workers_epoch(tmp_path):
    ring = "look"
    script = (
        "import sys, json\nfrom ringfeed.torch import RingDataset, RingLoader\n"
        "dataset = RingDataset(sys.argv[1], batch_size=4, fields=('epoch', 'positions'))\n"
        "next(iter(dataset))\n"
        "print(json.dumps([(e, p.tolist()) for e, p in RingLoader(dataset, num_workers=2)]))\n"
    )
    with Daemon(str(write_folder(tmp_path, 24)), "--size", "24x32", "--slots", "32", "--workers", "1", ring=ring):
        rows = json.loads(finish(trainer(script, f"{ring}-train")).splitlines()[-1])
    assert rows == [[0, list(range(first, first + 4))] for first in range(0, 24, 4)]
