"""A reader that is told to stand elsewhere while its daemon is being restarted waits for the next one.

It does so as one that reads, and insists that the next one serves the same.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

import pytest
from house import traces
from ring_fixtures import served_ring, turning, unique_ring_name

import ringfeed

EPOCH = 48


@contextlib.contextmanager
def serving(name: str, **described: object) -> Iterator[None]:
    """A daemon of this ring, which differs from the others in what is told."""
    with served_ring(name=name, epoch_length=EPOCH, **described) as served, turning(served):
        yield


class Waits(logging.Handler):
    """Notices that a reader says that it waits for the next daemon."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "waits up to" in record.getMessage():
            self.noticed.set()


@pytest.fixture
def ring() -> Iterator[str]:
    name = unique_ring_name()
    yield name
    assert traces(name) == []


@contextlib.contextmanager
def followed_by_another(name: str, **described: object) -> Iterator[None]:
    """A daemon that is served by the time that a reader has said that it waits for one, and until the end."""
    waits, over, logger = Waits(), threading.Event(), logging.getLogger("ringfeed")

    def come() -> None:
        assert waits.noticed.wait(30)
        with serving(name, **described):
            over.wait(30)

    thread = threading.Thread(target=come)
    logger.addHandler(waits)
    thread.start()
    try:
        yield
    finally:
        waits.noticed.set()
        over.set()
        thread.join()
        logger.removeHandler(waits)


def read_some(reader: ringfeed.Reader) -> None:
    batches = iter(reader)
    assert [next(batches).positions[0] for _ in range(3)] == [0, 4, 8]


def stand_in_epoch_five(reader: ringfeed.Reader) -> None:
    reader.set_epoch(5)


def load_a_state_of_epoch_five(reader: ringfeed.Reader) -> None:
    reader.load_state_dict({**reader.state_dict(), "epoch": 5, "position": 0})


TOLD = [stand_in_epoch_five, load_a_state_of_epoch_five]


@pytest.mark.parametrize("tell", TOLD)
@pytest.mark.parametrize("successor", [followed_by_another, serving], ids=["that comes later", "that serves already"])
def test_it_waits_for_the_next_daemon_and_stands_there(ring, tell, successor):
    with contextlib.ExitStack() as first:
        first.enter_context(serving(ring))
        with ringfeed.attach(ring, batch_size=4) as reader:
            read_some(reader)
            first.close()
            with successor(ring):
                tell(reader)
                batch = next(iter(reader))
                assert (batch.epoch, batch.positions[0]) == (5, 0)
                del batch
                reader.close()


@pytest.mark.parametrize("tell", TOLD)
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"seed": 1}, "seed: 0 in the state, 1 in the ring"), ({"label_mode": "index"}, "came back with other pixels")],
)
def test_one_that_serves_something_else_is_refused(ring, tell, changes, sentence):
    with contextlib.ExitStack() as first:
        first.enter_context(serving(ring))
        with ringfeed.attach(ring, batch_size=4) as reader:
            read_some(reader)
            first.close()
            with followed_by_another(ring, **changes):
                with pytest.raises(ringfeed.StateMismatchError, match=sentence):
                    tell(reader)
                with pytest.raises(ringfeed.ReaderClosedError):
                    next(iter(reader))


def test_who_does_not_insist_on_the_order_stands_in_the_next_ones(ring):
    with contextlib.ExitStack() as first:
        first.enter_context(serving(ring))
        with ringfeed.attach(ring, batch_size=4) as reader:
            read_some(reader)
            state = {**reader.state_dict(), "epoch": 5}
            first.close()
            with followed_by_another(ring, seed=1):
                reader.load_state_dict(state, strict=False)
                batch = next(iter(reader))
                assert (batch.epoch, batch.positions[0]) == (5, 12)
                del batch
                reader.close()


@pytest.mark.parametrize("tell", TOLD)
@pytest.mark.parametrize("restart_s", [0, 0.1])
def test_where_none_comes_in_time_it_says_so_and_is_closed(ring, tell, restart_s):
    with contextlib.ExitStack() as first:
        first.enter_context(serving(ring))
        with ringfeed.attach(ring, batch_size=4, restart_s=restart_s) as reader:
            read_some(reader)
            first.close()
            with pytest.raises((ringfeed.DaemonGoneError, ringfeed.DaemonNotRunningError), match=ring):
                tell(reader)
            with pytest.raises(ringfeed.ReaderClosedError):
                next(iter(reader))
