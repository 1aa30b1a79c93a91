"""Interactive sessions: batches are copies, and a session that pauses holds no job up."""

from __future__ import annotations

import code
import math
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from house import wait_until
from ring_fixtures import Served, served_ring, turning

import ringfeed
from ringfeed import interactive
from ringfeed.cli.status import ring_status
from ringfeed.torch import RingDataset

BATCH, EPOCH, SLOTS = 4, 50, 16


@pytest.fixture
def served() -> Iterator[Served]:
    with served_ring(slots=SLOTS, epoch_length=EPOCH) as one, turning(one):
        yield one


def typed(source: str, **names: Any) -> dict[str, Any]:
    """Run code as a notebook runs a cell."""
    names = {"ringfeed": ringfeed, "RingDataset": RingDataset, **names}
    exec(compile(source, "<cell>", "exec"), names)
    return names


# Who is interactive.


def test_a_cells_batches_are_copies_and_announced_once(served, caplog, monkeypatch):
    monkeypatch.setattr(interactive, "_told", False)
    names = typed("dataset = RingDataset(ring, batch_size=4)\nimage, label = next(iter(dataset))", ring=served.name)
    typed("with ringfeed.attach(ring, batch_size=4) as reader:\n    next(iter(reader)).image[:] = 0", ring=served.name)
    assert type(names["image"]).__name__ == "Tensor"
    names["image"].zero_()
    assert names["dataset"].reader.statistics()["held_batches"] == 0
    assert [lane.on_lag for lane in ring_status(served.name).consumers if lane.pid] == ["yield"]
    assert caplog.text.count("interactive session") == 1
    names["dataset"].close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (True, "yield")),
        ({"copy": False}, (False, "block")),
        ({"copy": True}, (True, "yield")),
        ({"on_lag": "block"}, (True, "block")),
        ({"copy": False, "on_lag": "skip"}, (False, "skip")),
    ],
)
def test_what_is_given_counts_in_a_cell_too(given, expected):
    defaults = {"copy": None, "on_lag": None}
    names = typed("found = by_default(**given)", by_default=interactive.by_default, given=defaults | given)
    assert names["found"] == expected


def test_ranks_of_a_session_are_waited_for():
    """One that is passed over would no longer take the same steps as the others."""
    names = typed("found = by_default(None, None, alone=False)", by_default=interactive.by_default)
    assert names["found"] == (True, "block")


def test_a_job_is_not_interactive(monkeypatch):
    here = "from ringfeed.interactive import by_default\nprint(by_default(None, None))\n"
    for command in ([sys.executable, "-c", here], [sys.executable]):
        done = subprocess.run(command, input=here, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == "(False, 'block')\n"
    assert interactive.by_default(None, None) == (False, "block")


def test_consoles_are_interactive(monkeypatch):
    console = code.InteractiveConsole({"by_default": interactive.by_default})
    console.push("found = by_default(None, None)")
    assert console.locals["found"] == (True, "yield")
    with monkeypatch.context() as patch:
        shell = types.SimpleNamespace(get_ipython=lambda: None)
        patch.setitem(sys.modules, "IPython", shell)
        assert interactive.by_default(None, None) == (False, "block"), "a script that imports IPython"
        shell.get_ipython = object
        assert interactive.by_default(None, None) == (True, "yield")
        patch.setattr(interactive.multiprocessing, "parent_process", object)
        assert interactive.by_default(None, None) == (False, "block"), "a process that the session started"


# A session that pauses.

SESSION = """
import sys
import ringfeed
reader = ringfeed.attach("{ring}", batch_size=4)
batches = iter(reader)
looked = [next(batches) for _ in range(3)]
print("looked", flush=True)
"""


def test_a_paused_session_holds_no_job_up(served):
    """It was in the middle of an epoch; it reads on where the others are, and is waited for again."""
    pipe = subprocess.PIPE
    session = subprocess.Popen([sys.executable, "-i", "-q"], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        session.stdin.write(SESSION.format(ring=served.name))
        session.stdin.flush()
        wait_for(session, "looked")
        with ringfeed.attach(served.name, batch_size=BATCH) as job:
            taken = [batch.positions.tolist() for _ in range(4) for batch in job]
        assert len(taken) > 3 * (EPOCH // BATCH)
        session.stdin.write("n = [b.epoch for b in reader]\nprint('then', n[0], reader.statistics()['missed_pairs'])\n")
        session.stdin.flush()
        _, epoch, missed = wait_for(session, "then").split()
        assert int(epoch) >= 3
        assert int(missed) > 2 * EPOCH
    finally:
        session.kill()
        session.communicate()


def wait_for(process: subprocess.Popen[str], word: str) -> str:
    for line in process.stdout:
        if word in line:
            return line
    raise AssertionError(f"it ended without {word!r}")


def test_a_yielding_group_is_awaited_while_it_reads(served, caplog):
    """And nothing is missed, however slow it is, as long as it is not slower than the daemon's patience."""
    with (
        ringfeed.attach(served.name, batch_size=BATCH, on_lag="yield") as slow,
        ringfeed.attach(served.name, batch_size=BATCH) as job,
    ):
        batches = iter(slow)
        for ours, theirs in zip(batches, job, strict=True):
            assert ours.positions.tolist() == theirs.positions.tolist()
        assert slow.statistics()["missed_pairs"] == 0


def test_a_group_that_paused_is_waited_for_again(served, caplog):
    """It goes on at the oldest pair that is kept, here the start of the job's own epoch, and misses nothing more."""
    with (
        ringfeed.attach(served.name, batch_size=BATCH, on_lag="yield") as pausing,
        ringfeed.attach(served.name, batch_size=BATCH) as job,
    ):
        next(iter(pausing))
        elsewhere(lambda: [len(batch) for _ in range(3) for batch in job])
        assert "has paused, and others go on without it" in caplog.text
        wait_until(lambda: served.service.ring.floor == 3 * EPOCH)  # the job is at an epoch's start
        served.service.groups.linger_blocking_s = math.inf
        again = iter(pausing)
        first = next(again)
        assert (first.epoch, first.positions[0]) == (3, 0)
        assert first.missed == pausing.statistics()["missed_pairs"] == 2 * EPOCH  # epoch 0 was left by its own will
        assert f"missed {first.missed} pairs, and goes on here" in caplog.text
        (yields,) = (group for group in served.service.groups if group.on_lag == "yield")
        wait_until(lambda: not yields.passed_over)
        epoch: list[int] = []
        reading = threading.Thread(target=lambda: epoch.extend(int(batch.positions[0]) for batch in job))
        reading.start()
        wait_until(lambda: yields.holds_since is not None)  # the job waits for it, at the ring's end
        assert not yields.passed_over
        rest = [int(batch.positions[0]) for batch in again]
        reading.join(60)
        assert epoch == [0, *rest] == list(range(0, EPOCH - BATCH + 1, BATCH))
        assert pausing.statistics()["missed_pairs"] == first.missed


def test_a_paused_reader_makes_way_in_one_thread(served, caplog):
    """It could not read on meanwhile, so the others do not wait for it, and it goes on as any that paused."""
    with (
        ringfeed.attach(served.name, batch_size=BATCH, on_lag="yield") as first,
        ringfeed.attach(served.name, batch_size=BATCH, on_lag="yield") as second,
    ):
        paused = iter(first)
        before = next(paused)
        assert all(len(list(second)) == EPOCH // BATCH for _ in range(3))
        assert not first.closed
        assert list(paused) == [], "the epoch that it was in is over"
        assert first.statistics()["missed_pairs"] == 3 * EPOCH - BATCH
        assert "it had made way for another reader of its thread" in caplog.text
        assert [batch.epoch for batch in first] == [3] * (EPOCH // BATCH)
        assert (before.label[:, 0, 0] == 1000 + before.positions).all()
        assert [batch.epoch for batch in second][-1] >= 3
    for reader in (first, second):
        with pytest.raises(ringfeed.ReaderClosedError, match="is closed"):
            next(iter(reader))


def elsewhere(work: Callable[[], object]) -> None:
    """Do it in a thread of its own, since readers of one thread do not wait for each other."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_groups_that_all_pause_wait_for_each_other(served):
    """No reader waits, so nobody is passed over."""
    with (
        ringfeed.attach(served.name, batch_size=BATCH, on_lag="yield") as first,
        ringfeed.attach(served.name, batch_size=BATCH, on_lag="yield") as second,
    ):
        batches = [iter(first), iter(second)]
        for each in batches:
            list(islice(each, 2))
        before = served.seconds
        wait_until(lambda: served.seconds > before + 60)
        for each in batches:
            assert next(each).positions[0] == 2 * BATCH
