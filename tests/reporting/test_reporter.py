"""What the daemon writes of a ring is what others read of it: counts, savings, lateness, the verdict, the log."""

from __future__ import annotations

from dataclasses import fields

import pytest
from ring_fixtures import Served, served_ring, turning

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.cli.top import Look, frame
from ringfeed.health.evidence import Bound
from ringfeed.shm.control import Control
from ringfeed.shm.counters import DaemonCounts, Lately, RingCounts, StoreCounts, counters, counters_of, read
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import Lane, Start, State
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.system.work import Work


def request(group: str = "job") -> Request:
    return Request(group, 0, 1, 4, False, Start.AUTO, (0, 0), False, 4711)


def report(served: Served, **work: int) -> None:
    served.service.report(DaemonCounts(workers=2, cores=8), StoreHealth(), Work(**work))


def test_every_counter_is_written_and_read_back():
    with served_ring() as served:
        expected = {}
        for number, declared in enumerate((RingCounts, DaemonCounts, StoreCounts, Lately)):
            one = declared(**{each.name: 1000 * number + at for at, each in enumerate(fields(declared), 1)})
            served.memory.count(one)
            expected[declared] = one
        for declared, one in expected.items():
            assert read(declared, lambda offset: served.memory._words[offset >> 3]) == one


def test_no_two_counters_share_a_word():
    table = list(counters())
    assert len({counter.offset for counter in table}) == len({counter.name for counter in table}) == len(table)
    taken = {value for name, value in vars(State).items() if isinstance(value, int) and name != "OFFSET"}
    assert not taken & {counter.offset for counter in table}
    assert {counter.scope for counter in counters_of(StoreCounts)} == {"daemon"}


def test_sharing_is_counted_in_pairs_requests_bytes():
    with served_ring(slots=64) as served:
        for _ in range(5):
            served.turn()
        lanes = [served.memory.lanes[lane] for lane in (0, 1)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(served.memory, "lane_lives", lambda lane: lane < 2)
            for lane, group in zip(lanes, "ab", strict=True):
                lane.write_request(request(group), nonce=7)
            served.turn()
            for lane in lanes:
                lane[Lane.TAKEN], lane[Lane.BATCHES] = 64, 16
            served.turn()
            report(served)
    counts = served.service.counters
    assert counts.decoded_pairs == 64
    assert counts.delivered_pairs == 128
    assert (counts.saved_requests, counts.saved_bytes) == (128, 640)


def test_a_reader_that_has_ended_stays_counted():
    with served_ring(slots=64) as served, pytest.MonkeyPatch.context() as patch:
        alive = {0}
        patch.setattr(served.memory, "lane_lives", alive.__contains__)
        lane = served.memory.lanes[0]
        lane.write_request(request(), nonce=7)
        served.turn()
        lane[Lane.TAKEN], lane[Lane.BATCHES], lane[Lane.WAITED_NS] = 8, 2, 10**9
        alive.clear()
        served.turn()
        report(served)
        assert served.service.counters.delivered_pairs == 8
        assert served.service.waited == {("job", 0): 1.0}


def test_daemon_status_and_top_have_the_same_verdict(caplog):
    """The reader waits for a pair that comes now and then; the workers are busy meanwhile."""
    with served_ring(slots=16) as served, pytest.MonkeyPatch.context() as patch:
        patch.setattr(served.memory, "lane_lives", lambda lane: lane == 0)
        lane = served.memory.lanes[0]
        lane.write_request(request(), nonce=7)
        served.turn()
        lane[Lane.TAKEN] = lane[Lane.RELEASED] = 16
        served.service.step()
        lane[Lane.WAITING_SINCE_NS] = int(1e9 * served.seconds)
        for _ in range(60):
            served.seconds += 0.25
            report(served, busy_ns=int(2e9 * served.seconds), cpu_ns=int(2e9 * served.seconds))
        verdict = served.service._reporter.verdict
        assert verdict is not None
        assert verdict.by is Bound.DECODING
        patch.setattr(Control, "lane_lives", lambda _control, lane: lane == 0)
        shown = ring_status(served.name)
        assert shown.verdict == verdict
        assert (verdict.setting, verdict.suggested) == ("workers", 8)
        assert shown.consumers[0].waited_lately == 1.0
        assert f"  verdict   {verdict.sentence}" in shown.lines()
        assert f"  {verdict.sentence}" in frame(None, Look(0.0, {served.name: shown}, []))
    said = [record.getMessage() for record in caplog.records if "bound by" in record.getMessage()]
    assert len(said) == 1
    assert "bound by decoding: 2 workers have pairs to decode 100% of the time" in said[0]


def test_a_late_pair_is_named_by_its_id():
    with served_ring(slots=64, epoch_length=1000) as served:
        pool = served.pool
        served.service.give(256)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(served.memory, "lane_lives", lambda lane: lane == 0)
            lane = served.memory.lanes[0]
            lane.write_request(request(), nonce=7)
            served.turn()
            late = served.service.ring.published
            lane[Lane.TAKEN] = lane[Lane.RELEASED] = late
            served.service.step()
            served.service.give(256)
            kept = [job for job in pool.jobs if job.seq == late]
            pool.jobs = [job for job in pool.jobs if job.seq != late]
            pool.work(served.service)
            pool.jobs += kept
            for _ in range(20):
                served.seconds += 0.25
                served.service.step()
                lane[Lane.WAITING_SINCE_NS] = 10**9
                report(served)
            verdict = served.service._reporter.verdict
    assert verdict is not None
    assert verdict.by is Bound.LATE_OBJECT
    assert f"größe/{1000 + late % 1000} was asked for at" in verdict.sentence
    assert f"{served.service.counters.unpublished_pairs} later pairs wait for it" in verdict.sentence


def test_a_reader_stopped_in_its_wait_holds_others():
    """Its word still says that it waits, though its pairs are there: others wait for it."""
    with served_ring(slots=16) as served, pytest.MonkeyPatch.context() as patch:
        patch.setattr(served.memory, "lane_lives", lambda lane: lane < 2)
        stopped, hungry = (served.memory.lanes[lane] for lane in (0, 1))
        for lane, group in ((stopped, "a"), (hungry, "b")):
            lane.write_request(request(group), nonce=7)
        served.turn()
        stopped[Lane.WAITING_SINCE_NS] = 1
        hungry[Lane.TAKEN] = hungry[Lane.RELEASED] = 16
        hungry[Lane.WAITING_SINCE_NS] = int(1e9 * served.seconds)
        for _ in range(20):
            served.seconds += 0.25
            report(served)
        verdict = served.service._reporter.verdict
    assert verdict is not None
    assert verdict.by is Bound.READER
    assert "group 'a'" in verdict.sentence


def test_a_real_readers_words_are_counted():
    with served_ring(slots=64, epoch_length=40) as served:
        for _ in range(5):
            served.turn()
        with turning(served):
            reader = ringfeed.attach(served.name, batch_size=16, drop_last=False)
        with reader:
            batches = iter(reader)
            for _ in range(3):
                batch = next(batches)
            assert len(batch.ids) == 8  # an epoch's last batch is a smaller one
            del batch
            served.turn()
            report(served)
    assert served.service.counters.delivered_pairs == 40
