"""``/metrics``: the numbers of `ringfeed status`, each defined there and nowhere else, in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ringfeed.cli.status import LaneStatus, RingStatus, StoreStatus
from ringfeed.shm.layout import RingState
from ringfeed.text import one_line
from ringfeedd.web.snapshot import RingView

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What every Prometheus reads; our names are plain, so the text is the same in later versions of the format."""

# By the names of `RingStatus`: the metric's name, which has its unit, and what it is.
GAUGES: Final = {
    "uptime_s": ("uptime_seconds", "Since the ring was made."),
    "heartbeat_age_s": ("heartbeat_age_seconds", "Since the daemon's loop turned."),
    "slots": ("slots", "Slots of the ring."),
    "filled_slots": ("filled_slots", "Slots that hold pairs which may be read."),
    "memory_bytes": ("memory_bytes", "Shared memory of the ring."),
    "epoch_length": ("epoch_pairs", "Pairs in an epoch of this machine."),
    "epoch": ("epoch", "Of the first pair that is kept."),
    "position": ("position_pairs", "Of the first pair that is kept, in its epoch."),
    "floor": ("floor_seq", "Number of the first pair that is kept."),
    "published": ("published_seq", "Number of the first pair that is not published."),
    "head": ("head_seq", "Number of the first pair that was not handed out to be fetched."),
    "workers": ("workers", "Worker processes."),
    "groups": ("groups", "Groups that read the ring, or whose place is kept."),
    "lingering_groups": ("lingering_groups", "Groups without a reader, whose place is kept."),
    "lanes": ("lanes", "Readers that may be attached at a time."),
    "num_nodes": ("nodes", "Machines that share every epoch."),
    "node_rank": ("node_rank", "This machine's number among them."),
}
COUNTERS: Final = {
    "decoded_pairs": ("decoded_pairs", "Pairs decoded."),
    "downloaded_bytes": ("downloaded_bytes", "Compressed bytes downloaded."),
    "fetch_retries": ("fetch_retries", "Downloads that were tried again."),
    "failed_pairs": ("failed_draws", "Draws of pairs that failed to load."),
    "size_mismatches": ("size_mismatches", "Pairs whose image and label had different sizes."),
    "unsure_turns": ("unsure_turns", "Pairs whose label may have been drawn on the image before it was turned."),
    "skipped_pairs": ("skipped_pairs", "Pairs that a rank missed because it came back too late."),
    "seeks": ("seeks", "Times that the stream went to another place."),
    "worker_deaths": ("worker_deaths", "Worker processes that died."),
    "fork_server_deaths": ("fork_server_deaths", "Processes that workers are forked from, and that died."),
    "places_given_up": ("places_given_up", "Places of ranks that were away for too long."),
    "lane_deaths": ("reader_deaths", "Readers that ended without a word."),
}
NO_METRICS: Final = {"daemon_pid", "seed", "slot_height", "slot_width", "mirrored"}
"""What identifies a ring, and is no measurement."""

# By the names of `StoreStatus`. All rings of a daemon read from one store: each of them has the same numbers.
STORE_GAUGES: Final = {
    "waiting_workers": ("store_waiting_workers", "Workers that keep pairs back because the store does not answer."),
    "failing_s": ("store_failing_seconds", "Since when the store answers no worker; 0 while it answers."),
    "next_try_s": ("store_next_try_seconds", "Until it is asked again; 0 while no worker waits for that."),
    "limit_per_s": ("store_limit_per_second", "Requests a second that the store lets through; 0 without a limit."),
}
STORE_COUNTERS: Final = {
    "outages": ("store_outages", "Times that the store answered no worker."),
    "requests": ("store_requests", "Requests for objects."),
    "limited": ("store_limited_requests", "Requests that the store answered with 429."),
    "second_requests": ("store_second_requests", "Second requests for objects that the next slot waited for."),
    "second_requests_won": ("store_second_requests_won", "Second requests that came first."),
}

LANE_GAUGES: Final = {
    "held_pairs": ("reader_held_pairs", "Pairs from the first that the reader may still read to its next batch."),
    "waiting_s": ("reader_waiting_seconds", "How long the reader has been waiting for its next batch."),
}
LANE_COUNTERS: Final = {
    "batches": ("reader_batches", "Batches that the reader took since it attached."),
    "waited_s": ("reader_waited_seconds", "Seconds that the reader waited since it attached."),
    "missed_pairs": ("reader_missed_pairs", "Pairs overwritten before a reader that skips could read them."),
}


GENERATED: Final = {
    "anonymous": re.compile(r"anonymous-\d+-.*", re.DOTALL),  # `ringfeed.attach` without a group
    "dataset": re.compile(r"dataset-\d+-.*", re.DOTALL),  # `RingDataset` in a job of one process, and its workers
    "job": re.compile(r"(parent-\d+|torchrun-.*|.*:\d+)-.*", re.DOTALL),  # in a job of several
}
"""By the label that stands for them: names of groups that are made up for one run."""


class RingCollector(Collector):
    """Makes metrics of the rings at the moment of a scrape."""

    def __init__(self, views: Sequence[RingView]) -> None:
        """Of these rings."""
        self._views = views

    def collect(self) -> Iterator[Metric]:
        """Every family of metrics, with a sample for each ring or reader."""
        rings = [(view.name, view.status) for view in self._views if view.status is not None]
        yield from _numbers(rings, GAUGES, COUNTERS)
        yield from _numbers([(ring, status.store) for ring, status in rings], STORE_GAUGES, STORE_COUNTERS)
        yield _retries(rings)
        yield self._causes()
        yield from _states(self._views)
        yield from _readers(rings)

    def _causes(self) -> Metric:
        metric = CounterMetricFamily("ringfeed_failures", "The failed draws by cause.", labels=["ring", "cause"])
        for view in self._views:
            for cause, count in sorted(view.failed.causes.items()):
                metric.add_metric(_labels(view.name, cause), count)
        return metric


def _labels(*values: str) -> list[str]:
    """Return labels that print, whatever a reader, a bucket or a server named: one line, UTF-8."""
    return [one_line(value) for value in values]


def _numbers(
    owners: Sequence[tuple[str, RingStatus | StoreStatus]],
    gauges: Mapping[str, tuple[str, str]],
    counters: Mapping[str, tuple[str, str]],
) -> Iterator[Metric]:
    """The numbers of each ring that go by these names."""
    for names, family in ((gauges, GaugeMetricFamily), (counters, CounterMetricFamily)):
        for attribute, (name, what) in names.items():
            metric = family(f"ringfeed_{name}", what, labels=["ring"])
            for ring, owner in owners:
                metric.add_metric(_labels(ring), getattr(owner, attribute))
            yield metric


def _retries(rings: Iterable[tuple[str, RingStatus]]) -> Metric:
    metric = CounterMetricFamily("ringfeed_retries", "Downloads tried again, by cause.", labels=["ring", "cause"])
    for ring, status in rings:
        for cause, count in status.retries_by_cause.items():
            metric.add_metric(_labels(ring, cause), count)
    return metric


def _states(views: Iterable[RingView]) -> Iterator[Metric]:
    metric = GaugeMetricFamily("ringfeed_state", "1 for the state that the ring is in.", labels=["ring", "state"])
    held = GaugeMetricFamily("ringfeed_held_up", "1 while readers wait for another one's slots.", labels=["ring"])
    for view in views:
        state = view.status.state if view.status else "dead"
        for each in (*(state.name.lower() for state in RingState), "dead"):
            metric.add_metric(_labels(view.name, each), each == state)
        held.add_metric(_labels(view.name), bool(view.status and view.status.held_up))
    yield metric
    yield held


def _readers(rings: Iterable[tuple[str, RingStatus]]) -> Iterator[Metric]:
    readers = [(ring, lane) for ring, status in rings for lane in status.consumers]
    for names, family in ((LANE_GAUGES, GaugeMetricFamily), (LANE_COUNTERS, CounterMetricFamily)):
        for attribute, (name, what) in names.items():
            metric = family(f"ringfeed_{name}", what, labels=["ring", "lane", "group", "rank"])
            for ring, lane in readers:
                metric.add_metric(_labels(ring, str(lane.lane), _group(lane), str(lane.rank)), getattr(lane, attribute))
            yield metric


def _group(lane: LaneStatus) -> str:
    """The group's name as a label: what each run of a program would name otherwise is one name.

    A reader without a group has a name with a process id in it, and so have the ranks of a job whose group the user did
    not name; each run would begin a time series of its own.
    """
    return next((kind for kind, names in GENERATED.items() if names.fullmatch(lane.group)), lane.group)


def metrics_text(views: Sequence[RingView]) -> bytes:
    """Everything, as text: the rings, and the supervisor process itself."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(RingCollector(views))
    return generate_latest(registry)
