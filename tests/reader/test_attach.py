"""An attach that gets no answer at once: the trainer's log says what it waits for, and it ends with a sentence."""

import threading
import time

import pytest
from house import wait_until
from ring_fixtures import served_ring, turning

import ringfeed
from ringfeed.reader import attachment as attachment_module
from ringfeed.reader import delivery
from ringfeed.shm.layout import Lane, State


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(attachment_module, "ANSWER_TIMEOUT_S", 0.6)
    monkeypatch.setattr(attachment_module, "TELL_AFTER_S", 0.2)


def test_a_failed_ring_raises_its_reason_at_once():
    """However long it may wait."""
    with served_ring() as served:
        served.service.fail("too many pairs failed")
        began = time.monotonic()
        with pytest.raises(ringfeed.RingFailedError, match="too many pairs failed"):
            ringfeed.attach(served.name, batch_size=2, wait_s=60)
        assert time.monotonic() - began < 2


def test_an_absent_daemon_is_awaited_with_a_word(monkeypatch, caplog):
    monkeypatch.setattr("ringfeed.reader.opening.TELL_AFTER_S", 0.1)
    with pytest.raises(ringfeed.DaemonNotRunningError):
        ringfeed.attach("nobody-serves-this", batch_size=2, wait_s=0.3)
    assert caplog.text.count("This process waits up to 0 s for one.") == 1


@pytest.mark.parametrize("wait", [False, True])
def test_an_unanswered_attach_ends_with_a_sentence(impatient, wait, caplog):
    with served_ring() as served:  # its loop turns, and does not note the request
        served.memory.set(State.HEARTBEAT_NS, time.monotonic_ns() + int(60e9))
        with pytest.raises(ringfeed.AttachRefusedError, match=r"has not answered rank 0 of group 'job'.* does not say"):
            ringfeed.attach(served.name, batch_size=2, group="job", wait=wait)
        assert "has asked ring" in caplog.text
        assert "the daemon says nothing" in caplog.text


def test_an_attach_to_a_stopped_daemon_says_so(impatient, caplog):
    with served_ring() as served:
        served.memory.set(State.STARTED_NS, 1)
        with pytest.raises(ringfeed.DaemonGoneError, match="has not turned its loop"):
            ringfeed.attach(served.name, batch_size=2)
        assert "its loop has not turned for" in caplog.text


def test_an_attach_that_waits_says_for_what(impatient, caplog):
    """Its state lies behind what another rank of its group reads on from."""
    with served_ring() as served, turning(served), ringfeed.attach(served.name, batch_size=2, group="job") as reader:
        for _ in zip(range(6), reader, strict=False):
            pass
        wait_until(lambda: served.service.ring.floor > 0)
        served.memory.set(State.HEARTBEAT_NS, time.monotonic_ns() + int(60e9))
        with pytest.raises(ringfeed.AttachRefusedError, match="lies behind"):
            ringfeed.attach(served.name, batch_size=2, group="late", start=(0, 0))
        waiting = threading.Thread(target=attach_late, args=(served.name,))
        waiting.start()
        deadline = time.monotonic() + 10
        while "epoch 0, position 0 lies behind ring" not in caplog.text:
            assert time.monotonic() < deadline, caplog.text
            time.sleep(0.01)
        reader.close()
        waiting.join(60)
        assert not waiting.is_alive()


def test_a_place_behind_an_own_reader_is_named():
    """It would wait for itself: an earlier run of a notebook's cell keeps its reader."""
    with served_ring() as served, turning(served), ringfeed.attach(served.name, batch_size=2, group="job") as reader:
        for _ in zip(range(6), reader, strict=False):
            pass
        wait_until(lambda: served.service.ring.floor > 0)
        for wait in (False, True):
            with pytest.raises(ringfeed.AttachRefusedError, match=r"lies behind .*This process .* group 'job', rank"):
                ringfeed.attach(served.name, batch_size=2, group="late", start=(0, 0), wait=wait)
        reader.close()
        ringfeed.attach(served.name, batch_size=2, group="late", start=(0, 0)).close()


def attach_late(ring):
    ringfeed.attach(ring, batch_size=2, group="late", start=(0, 0), wait=True).close()


def test_a_request_without_pairs_is_refused():
    with served_ring() as served:
        page = served.memory.lanes[0]
        page.write_request(
            ringfeed.shm.lane.Request(
                "job", 0, 1, 0, True, ringfeed.shm.layout.Start.AUTO, (0, 0), anonymous=False, pid=1
            ),
            nonce=7,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(served.memory, "lane_lives", lambda lane: lane == 0)
            served.turn()
            assert page[Lane.ANSWER_NONCE] == 7
            assert page.read_reason() == "batch_size=0 asks for batches without pairs; it must be at least 1"


def test_ranks_that_asked_together_join_together():
    """In the same turn: the rank whose request completed the group might be gone by the next one."""
    with served_ring() as served, pytest.MonkeyPatch.context() as patch:
        pages = served.memory.lanes[:2]
        for rank, page in enumerate(pages):
            start = ringfeed.shm.layout.Start.AT
            page.write_request(ringfeed.shm.lane.Request("job", rank, 2, 2, True, start, (1, 0), False, 1), nonce=7)
        patch.setattr(served.memory, "lane_lives", lambda lane: lane < 2)
        served.service.step()
        assert [page[Lane.ANSWER_NONCE] for page in pages] == [7, 7]


def test_a_slow_rank_follows_another_epoch(monkeypatch):
    """The daemon notes that it has left, with the other rank at the new place already, before it asks for that."""
    reattach = delivery.attach_elsewhere

    def reattach_late(*arguments, **options):
        wait_until(lambda: len(served.service.groups.lanes()) == 1)
        turns = served.seconds
        wait_until(lambda: served.seconds > turns + 1)
        return reattach(*arguments, **options)

    with served_ring() as served, turning(served):
        readers = [ringfeed.attach(served.name, batch_size=2, group="job", rank=r, world_size=2) for r in (0, 1)]
        readers[1].set_epoch(7)
        monkeypatch.setattr(delivery, "attach_elsewhere", reattach_late)
        readers[0].set_epoch(7)
        for reader, positions in zip(readers, ([0, 1], [2, 3]), strict=True):
            batch = next(iter(reader))
            assert (batch.epoch, batch.positions.tolist()) == (7, positions)
            reader.close()
