"""A reader that is told to stand elsewhere while its daemon is being restarted waits for the next one.

It does so as one that reads, and insists that the next one serves the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator

import pytest
from house import traces
from ring_fixtures import served_ring, turning, unique_ring_name

import ringfeed
from ringfeed.shm import layout, segment
from ringfeed.shm.layout import Header
from ringfeedd.cli.clean import clean
from ringfeedd.recovery.other_versions import forget_other_versions, keep_other_versions, other_versions

EPOCH = 48
ANOTHER = "a daemon of another release; left alone"


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
def test_it_awaits_the_next_daemon_and_attaches(ring, tell, successor):
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


@pytest.mark.parametrize(
    ("tell", "changes", "sentence"),
    [
        (stand_in_epoch_five, {"seed": 1}, r"came back with another order \(seed: 0 before, 1 now\)"),
        (load_a_state_of_epoch_five, {"seed": 1}, "The resume state is not .* seed: 0 in the state, 1 in the ring"),
        *((tell, {"label_mode": "index"}, "came back with other pixels") for tell in TOLD),
    ],
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


def test_without_a_fixed_order_another_order_is_accepted(ring):
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
def test_a_missing_daemon_closes_the_reader_with_reason(ring, tell, restart_s):
    with contextlib.ExitStack() as first:
        first.enter_context(serving(ring))
        with ringfeed.attach(ring, batch_size=4, restart_s=restart_s) as reader:
            read_some(reader)
            first.close()
            with pytest.raises((ringfeed.DaemonGoneError, ringfeed.DaemonNotRunningError), match=ring):
                tell(reader)
            with pytest.raises(ringfeed.ReaderClosedError):
                next(iter(reader))


@contextlib.contextmanager
def another_version(name: str) -> Iterator[None]:
    """A daemon of another layout version, as far as a reader can know it."""
    path = segment.shm_path(layout.descriptor_name(name))
    path.write_bytes(json.dumps({"layout_version": layout.LAYOUT_VERSION + 1, "shape": "unheard of"}).encode())
    path.chmod(0o600)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read_on(reader: ringfeed.Reader) -> None:
    for _ in range(10):
        for _batch in reader:
            pass


@pytest.mark.parametrize("tell", [read_on, *TOLD])
def test_another_layout_versions_daemon_is_waited_out(ring, tell):
    """Until one of the reader's own version comes, or none has come for restart_s."""
    with contextlib.ExitStack() as first:
        first.enter_context(serving(ring))
        with ringfeed.attach(ring, batch_size=4, restart_s=0.3) as reader:
            read_some(reader)
            first.close()
            with another_version(ring), pytest.raises(ringfeed.OtherVersionError, match="install the same release"):
                tell(reader)


def test_a_reader_continues_with_its_own_version(ring):
    with contextlib.ExitStack() as first:
        first.enter_context(serving(ring))
        with ringfeed.attach(ring, batch_size=4, restart_s=60) as reader:
            read_some(reader)
            first.close()
            with another_version(ring), followed_by_another(ring):
                stand_in_epoch_five(reader)
                assert next(iter(reader)).epoch == 5
                reader.close()


def test_attach_awaits_its_own_version_within_its_time(ring):
    with another_version(ring):
        with pytest.raises(ringfeed.OtherVersionError, match="has layout version"):
            ringfeed.attach(ring, batch_size=4)
        with pytest.raises(ringfeed.OtherVersionError, match="has layout version"):
            ringfeed.attach(ring, batch_size=4, wait_s=0.2)
        with serving(ring):
            ringfeed.attach(ring, batch_size=4, wait_s=60).close()


def test_places_await_a_daemon_of_the_readers_version(ring):
    """A daemon that cannot read them keeps them for as long as the readers live."""
    with served_ring(name=ring) as served, turning(served):
        reader = ringfeed.attach(ring, batch_size=4)
        descriptor = served.memory.descriptor
        assert other_versions(ring) == frozenset(), "it is of ours"
        served.memory._words[Header.LAYOUT_VERSION >> 3] = layout.LAYOUT_VERSION + 1
        described = segment.shm_path(layout.descriptor_name(ring))
        text = json.dumps(
            {"layout_version": layout.LAYOUT_VERSION + 1, "ring": ring, "generation": descriptor.generation}
        )
        described.write_text(text)
        assert clean([ring], force=False) == ([f"{ring}: trainers wait for {ANOTHER} (--force removes it)"], False)
        assert keep_other_versions(ring) == {descriptor.generation}
        former = segment.shm_path(layout.former_name(ring, descriptor.generation))
        assert former.read_text() == text
        assert not described.exists()
        forget_other_versions(ring, {descriptor.generation})
        assert former.exists()
        reader.close()
        forget_other_versions(ring, {descriptor.generation})
        assert not former.exists()
        assert not segment.shm_path(descriptor.control).exists()
        assert keep_other_versions(ring) == frozenset()
