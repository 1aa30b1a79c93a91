"""Exactly the right pair, whatever restarts: the daemon, the trainers, with another number of ranks."""

import json

import pytest
from house import Daemon, finish, trainer, wait_until, write_folder

import ringfeed
from ringfeed.cli.status import ring_status

PAIRS = 24

LOGGING = """
import json, sys, ringfeed
from pathlib import Path
ring, group, rank, world, batch, epochs, start = sys.argv[1:]
reader = ringfeed.attach(ring, batch_size=int(batch), group=group, rank=int(rank), world_size=int(world),
                         drop_last=False, start=json.loads(start), wait_s=10)
print("in", flush=True)
sys.stdin.readline()
while reader.epoch < int(epochs):
    for b in reader:
        rows = [[b.ids[i], b.epoch, int(b.positions[i])] for i in range(len(b)) if b.valid[i]]
        del b
        print(json.dumps([rows, reader.state_dict()]), flush=True)
        sys.stdin.readline()  # one line for each batch; at its end, all the rest at once
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


def serve(folder, ring, *arguments, slots=32):
    common = ("--size", "24x32", "--slots", slots, "--workers", "1", "--linger-blocking-s", "1")
    return Daemon(str(folder), *common, *arguments, ring=ring)


class Trainer:
    """A rank that logs what it takes; killed or let go on by the test."""

    def __init__(self, ring, *, group="g", rank=0, world=1, batch=4, epochs=3, start="auto"):
        arguments = (f"{ring}-train", group, rank, world, batch, epochs, json.dumps(start))
        self.process = trainer(LOGGING, *arguments)
        self.rows, self.state = [], None
        assert self.process.stdout.readline() == "in\n", self.process.stdout.read()

    def take(self, batches):
        """Let it take some batches."""
        self.process.stdin.write(batches * "next\n")
        self.process.stdin.flush()
        for _ in range(batches):
            assert self._log_one(), "it ended early"

    def let_go(self):
        """Let it take all the rest, as fast as the others allow."""
        self.process.stdin.close()

    def finish(self):
        """Let it take all the rest, and wait for its end."""
        self.let_go()
        while self._log_one():
            pass
        assert self.process.wait(30) == 0

    def kill(self):
        """Kill it, and read what it still had logged."""
        self.process.kill()
        while self._log_one():
            pass
        self.process.wait()

    def _log_one(self):
        while (line := self.process.stdout.readline()).endswith("\n") and line != "done\n":
            assert not line.startswith("Traceback"), line + self.process.stdout.read()
            if line.startswith("[["):
                rows, self.state = json.loads(line)
                self.rows += rows
                return True
        return False


def undisturbed(epochs=3):
    return [(epoch, position) for epoch in range(epochs) for position in range(PAIRS)]


def places(*trainers):
    return sorted((epoch, position) for one in trainers for _, epoch, position in one.rows)


def test_two_groups_survive_a_killed_daemon_exactly(folder, ring):
    """Two ranks each; they go on at their next pair."""
    with serve(folder, ring, slots=96) as first:
        ranks = [Trainer(ring, group=group, rank=rank, world=2, epochs=12) for group in "AB" for rank in (0, 1)]
        daemon = first
        for kill in range(3):
            for number, one in enumerate(ranks):
                one.take(2 + (number + kill) % 3)
            daemon.process.kill()
            daemon.process.wait()
            daemon = serve(folder, ring, slots=96).start()
            daemon.output.wait_for("ready")
        for one in ranks:
            one.let_go()
        for one in ranks:
            one.finish()
        assert daemon.stop() == 0
    for group in (ranks[:2], ranks[2:]):
        assert places(*group) == undisturbed(12)
    by_place = [{(e, p): pair_id for one in group for pair_id, e, p in one.rows} for group in (ranks[:2], ranks[2:])]
    assert by_place[0] == by_place[1]


def test_a_reader_survives_a_clean_restart(folder, ring):
    with serve(folder, ring) as first:
        one = Trainer(ring, epochs=6)
        one.take(4)
        assert first.stop() == 0
        with serve(folder, ring, "--workers", "2", slots=64):
            one.finish()
    assert places(one) == undisturbed(6)


def test_held_batches_stay_readable_over_a_restart(folder, ring):
    with serve(folder, ring) as first:
        reader = ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False)
        batches = iter(reader)
        held = next(batches)
        pixels = held.image.copy()
        first.process.kill()
        first.process.wait()
        with serve(folder, ring):
            rest = [int(batch.positions[0]) for batch in batches]
            assert rest == [4, 8, 12, 16, 20]
            assert (held.image == pixels).all()
            reader.close()


def test_a_returning_daemon_of_another_order_is_refused(folder, ring):
    with serve(folder, ring) as first:
        reader = ringfeed.attach(f"{ring}-train", batch_size=4)
        batches = iter(reader)
        next(batches)
        first.process.kill()
        first.process.wait()
        with (
            serve(folder, ring, "--seed", "9"),
            pytest.raises(ringfeed.StateMismatchError, match=r"another order \(seed: 0 before, 9 now\)"),
        ):
            for _ in range(20):
                for batch in reader:
                    del batch


def test_a_returning_daemon_of_other_pixels_is_refused(folder, ring):
    name = f"{ring}-train"
    with serve(folder, ring, "--label-mode", "index") as first, ringfeed.attach(name, batch_size=4) as reader:
        next(iter(reader))
        state = reader.state_dict()
        first.process.kill()
        first.process.wait()
        with serve(folder, ring, "--label-mode", "index", "--size", "48x64"):
            with pytest.raises(ringfeed.StateMismatchError, match=r"other pixels \(size: 24x32 before, 48x64 now\)"):
                for _ in range(20):
                    for batch in reader:
                        del batch
            # a job that is started again from its state has asked for it
            with ringfeed.attach(name, batch_size=4, start=state) as anew:
                assert int(next(iter(anew)).positions[0]) == 4


def test_a_state_resumes_with_other_ranks_and_batches(folder, ring):
    """Any number of ranks and any batch size."""
    seen = []
    state = "auto"
    with serve(folder, ring):
        for run, (world, batch, batches) in enumerate([(1, 4, 3), (2, 3, 2), (3, 2, 3), (2, 4, 1), (1, 5, None)]):
            ranks = [
                Trainer(ring, group=f"run{run}", rank=rank, world=world, batch=batch, epochs=3, start=state)
                for rank in range(world)
            ]
            for one in ranks:
                one.finish() if batches is None else one.take(batches)
            state = ranks[0].state
            assert all(one.state == state for one in ranks)
            taken = [row for one in ranks for row in one.rows]
            for one in ranks:
                one.kill()
            seen += taken
    assert sorted((epoch, position) for _, epoch, position in seen) == undisturbed()
    for epoch in range(3):
        assert len({pair_id for pair_id, e, _ in seen if e == epoch}) == PAIRS


def test_a_killed_rank_finds_its_next_pair_waiting(folder, ring):
    with serve(folder, ring):
        ranks = [Trainer(ring, rank=rank, world=2, epochs=100) for rank in (0, 1)]
        ranks[1].take(1)
        ranks[0].take(3)
        ranks[0].kill()
        wait_until(lambda: len(ring_status(f"{ring}-train").consumers) == 1)
        with ringfeed.attach(f"{ring}-train", batch_size=4, group="g", rank=0, world_size=2, drop_last=False) as reader:
            batch = next(iter(reader))
            epoch, position = max((e, p) for _, e, p in ranks[0].rows)
            # what it took and could not log any more is at most the batch in its hands
            ahead = (batch.epoch - epoch) * PAIRS + int(batch.positions[0]) - position
            assert ahead in (5, 13)
            del batch
        ranks[1].kill()


def test_another_rings_state_is_refused_with_the_difference(folder, ring):
    with serve(folder, ring, "--order", "sequential"), ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        state = reader.state_dict()
        assert json.loads(json.dumps(state)) == state
        with pytest.raises(ringfeed.StateMismatchError, match="seed: 5 in the state, 0 in the ring"):
            ringfeed.attach(f"{ring}-train", batch_size=4, start={**state, "seed": 5})
        with pytest.raises(ringfeed.StateMismatchError, match="fingerprint"):
            reader.load_state_dict({**state, "fingerprint": "0" * 32})
        with pytest.raises(ringfeed.StateMismatchError, match="version"):
            reader.load_state_dict({})
        reader.load_state_dict({**state, "seed": 5, "position": 8}, strict=False)
        assert int(next(iter(reader)).positions[0]) == 8


def test_a_place_behind_other_readers_is_refused(folder, ring):
    """Or waited for."""
    raw = (
        "import sys, ringfeed\n"
        "r = ringfeed.attach(sys.argv[1], batch_size=4, start=(0, 4), wait=True)\n"
        "print(int(next(iter(r)).positions[0]))\n"
    )
    dataset = (
        "import sys, ringfeed.torch\n"
        "d = ringfeed.torch.RingDataset(sys.argv[1], batch_size=4, start=(0, 4), wait=True, fields=['positions'])\n"
        "print(int(next(iter(d))[0]))\n"
    )
    with serve(folder, ring):
        reader = ringfeed.attach(f"{ring}-train", batch_size=4)
        for _ in range(3):
            for batch in reader:
                del batch
        wait_until(lambda: ring_status(f"{ring}-train").floor > 4)
        with pytest.raises(ringfeed.AttachRefusedError, match=r"lies behind .* wait=True"):
            ringfeed.attach(f"{ring}-train", batch_size=4, start=(0, 4))
        waiting = [trainer(script, f"{ring}-train") for script in (raw, dataset)]
        reader.close()
        assert [finish(process) for process in waiting] == ["4\n", "4\n"]


def test_a_refused_reader_leaves_its_lane_and_closes(folder, ring):
    """Only the lane's daemon frees it; the reader says that it is closed."""
    name = f"{ring}-train"
    with serve(folder, ring), ringfeed.attach(name, batch_size=4) as ahead:
        reader = ringfeed.attach(name, batch_size=4)
        state = reader.state_dict()
        for one in (ahead, reader, ahead, reader):
            for batch in one:
                del batch
        for batch in ahead:
            del batch
        wait_until(lambda: ring_status(name).floor > 4)
        with pytest.raises(ringfeed.AttachRefusedError, match="lies behind"):
            reader.load_state_dict(state)
        with ringfeed.attach(name, batch_size=4, start="epoch") as heir:  # on the lane that was the other's
            with pytest.raises(ringfeed.ReaderClosedError, match="attach again"):
                next(iter(reader))
            assert int(next(iter(heir)).positions[0]) == 0


def test_set_epoch_chooses_the_next_iterations_epoch(folder, ring):
    with serve(folder, ring), ringfeed.attach(f"{ring}-train", batch_size=4) as reader:

        def epoch_of_next():
            return {batch.epoch for batch in reader}

        reader.set_epoch(0)
        assert epoch_of_next() == {0}
        reader.set_epoch(5)
        assert epoch_of_next() == {5}
        reader.set_epoch(2)
        assert epoch_of_next() == {2}
        next(iter(reader))
        reader.set_epoch(3)  # that one was broken off: it begins anew
        assert epoch_of_next() == {3}
        state = {**reader.state_dict(), "epoch": 7, "position": 12}
        reader.load_state_dict(state)
        reader.set_epoch(7)  # in the middle of it, where the state stands
        assert [int(batch.positions[0]) for batch in reader] == [12, 16, 20]


def test_an_epochs_unwanted_rest_is_not_fetched(folder, ring):
    with serve(folder, ring), ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        reader.set_epoch(1000)
        assert {batch.epoch for batch in reader} == {1000}
        assert ring_status(f"{ring}-train").decoded_pairs < 500
