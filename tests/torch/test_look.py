"""A look at one batch costs nothing: the iteration that is left after its first batch is taken back by the next one."""

import json
import threading

import pytest
from house import Daemon, finish, trainer, wait_until, write_folder
from ring_fixtures import served_ring, turning
from torch.utils.data import DataLoader

import ringfeed
from ringfeed.shm.layout import Lane
from ringfeed.torch import RingDataset, RingLoader
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
def test_an_epoch_that_was_looked_at_is_read_whole(served, looks, copy):
    with ringfeed.attach(served.name, batch_size=2, copy=copy) as reader:
        for epoch in range(3):
            for _ in range(looks):
                assert place(next(iter(reader))) == (epoch, 0)
            assert [place(batch) for batch in reader] == whole(epoch)


def test_a_batch_that_was_looked_at_is_held_and_comes_again(served):
    with ringfeed.attach(served.name, batch_size=2) as reader:
        looked = next(iter(reader))
        batches = iter(reader)
        again = next(batches)
        assert looked.image.base is not None
        assert (again.image == looked.image).all()
        del looked, again
        assert [place(batch) for batch in batches] == whole(0)[1:]


def test_an_iteration_left_after_two_batches_is_followed_by_the_next_epoch(served):
    with ringfeed.attach(served.name, batch_size=2) as reader:
        for _, _batch in zip(range(2), iter(reader), strict=False):
            pass
        del _batch
        assert [place(batch) for batch in reader] == whole(1)


def test_a_look_after_a_state_was_loaded_begins_there_again(served):
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


def test_a_state_counts_a_batch_that_was_looked_at(served):
    with ringfeed.attach(served.name, batch_size=2) as reader:
        next(iter(reader))
        assert reader.state_dict()["position"] == 2


def test_an_epoch_of_one_batch_is_looked_at_too():
    with served_ring(epoch_length=2) as served, turning(served), ringfeed.attach(served.name, batch_size=2) as reader:
        assert place(next(iter(reader))) == (0, 0)
        assert [place(batch) for _ in range(3) for batch in reader] == [(0, 0), (1, 0), (2, 0)]


def test_the_daemon_keeps_the_slots_of_a_look_and_its_reader_asks_for_no_more(served):
    with ringfeed.attach(served.name, batch_size=2) as reader:
        page = reader._page
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


def test_a_reader_killed_after_a_look_is_not_given_that_batch_again(served):
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


def test_a_look_in_the_main_process_leaves_the_epoch_to_the_workers(tmp_path):
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
