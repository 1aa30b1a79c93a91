"""``/metrics`` in Prometheus' text format: the numbers of `ringfeed status`, and histograms of the workers' times.

What is counted comes from the table in `ringfeed.shm.counters`. A fact is one family: what all rings of a daemon share
has no label ``ring``, and what is split by cause has no family of its sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

import ringfeed
from ringfeed.cli.report import LaneStatus, RingStatus
from ringfeed.health.evidence import Bound
from ringfeed.shm.counters import NS, Counter, DaemonCounts, Kind, RingCounts, StoreCounts, counters_of
from ringfeed.shm.layout import LAYOUT_VERSION, RingState
from ringfeed.text import one_line
from ringfeedd.ring.labels import group_label
from ringfeedd.system.histogram import Times
from ringfeedd.system.work import Work
from ringfeedd.web.snapshot import RingSnapshot, problems

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""What every Prometheus reads; our names are plain, so the text is the same in later versions of the format."""

# By the names of `RingStatus`, what is not counted: the metric's name, which has its unit, and what it is.
GAUGES: Final = {
    "uptime_s": ("uptime_seconds", "Seconds since the ring was made."),
    "heartbeat_age_s": ("heartbeat_age_seconds", "Seconds since the daemon's loop turned last."),
    "slots": ("slots", "Slots of the ring; each holds one pair."),
    "filled_slots": ("filled_slots", "Slots whose pairs can be read now."),
    "memory_bytes": ("memory_bytes", "Bytes of shared memory that the ring takes."),
    "epoch_length": ("epoch_pairs", "Pairs in one epoch of this machine."),
    "epoch": ("epoch", "Epoch of the first pair that is kept."),
    "position": ("position_pairs", "Position in its epoch of the first pair that is kept."),
    "floor": ("floor_seq", "Number of the first pair that is kept."),
    "published": ("published_seq", "Number of the first pair that cannot be read yet."),
    "head": ("head_seq", "Number of the first pair that no worker was given yet."),
    "lanes": ("lanes", "Readers that can be attached at a time."),
    "num_nodes": ("nodes", "Machines that share every epoch."),
    "node_rank": ("node_rank", "Number of this machine among them, from 0."),
}
NO_METRICS: Final = {"daemon_pid", "seed", "slot_height", "slot_width", "mirrored"}
"""What identifies a ring, and is not measured."""

# By the names of `StoreStatus`, what is not counted.
STORE_GAUGES: Final = {
    "failing_s": ("store_failing_seconds", "Seconds since when the store answers no worker; 0 while it answers."),
    "next_try_s": ("store_next_try_seconds", "Seconds until the store is asked again; 0 while it answers."),
    "limit_per_s": ("store_limit_per_second", "Requests per second that the store lets through; 0 without a limit."),
}

LANE_GAUGES: Final = {
    "held_pairs": ("reader_held_pairs", "Pairs from the first that the reader may still read to its next batch."),
    "waiting_s": ("reader_waiting_seconds", "Seconds that the reader has been waiting for its next batch."),
}
LANE_COUNTERS: Final = {
    "batches": ("reader_batches", "Batches that the reader took since it attached."),
    "missed_pairs": ("reader_missed_pairs", "Pairs that were overwritten before a reader that skips could read them."),
}

_Rings: TypeAlias = Sequence[tuple[str, RingStatus]]


class RingCollector(Collector):
    """Makes metrics of the rings at the moment of a scrape."""

    def __init__(self, views: Sequence[RingSnapshot], work: Work) -> None:
        """Collect these rings, and what the daemon's workers have done."""
        self._views, self._work = views, work

    def collect(self) -> Iterator[Metric]:
        """Every family of metrics, with a sample for each ring or reader."""
        rings = [(view.name, view.status) for view in self._views if view.status is not None]
        yield from _of_the_daemon(self._views, self._work)
        yield from _shared(rings)
        yield from _numbers(rings)
        yield from _counted(rings)
        yield self._causes()
        yield from _states(self._views)
        yield from _readers(rings)
        yield self._waited()

    def _causes(self) -> Metric:
        what = "Pairs that failed to load, by cause, each time counted."
        metric = CounterMetricFamily("ringfeed_failures", what, labels=["ring", "cause"])
        for view in self._views:
            for cause, count in sorted(view.failed.causes.items()):
                metric.add_metric(_labels(view.name, cause), count)
        return metric

    def _waited(self) -> Metric:
        what = (
            "Seconds that readers waited for batches, by group and rank; groups without a name of their own share one."
        )
        metric = CounterMetricFamily("ringfeed_reader_waited_seconds", what, labels=["ring", "group", "rank"])
        for view in self._views:
            for (group, rank), seconds in view.waited.items():
                metric.add_metric(_labels(view.name, group, str(rank)), seconds)
        return metric


def _labels(*values: str) -> list[str]:
    """Return labels that print, whatever a reader, a bucket or a server named: one line, UTF-8."""
    return [one_line(value) for value in values]


def _of_the_daemon(views: Sequence[RingSnapshot], work: Work) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "ringfeed_build_info", "Release and layout version of the daemon; always 1.", labels=["version", "layout"]
    )
    build.add_metric([ringfeed.__version__, str(LAYOUT_VERSION)], 1)
    yield build
    ready = not problems(views) and any(view.status and view.status.published for view in views)
    yield GaugeMetricFamily("ringfeed_ready", "1 while the daemon serves pairs and is well, else 0.", value=ready)
    yield _histogram("fetch", "Seconds to download one object, retries included, by all workers.", work.fetched)
    yield _histogram("decode", "Seconds to decode one pair into its slot, by all workers.", work.decoded)


def _histogram(name: str, what: str, times: Times) -> Metric:
    metric = HistogramMetricFamily(f"ringfeed_{name}_seconds", what)
    bounds = [*map(str, times.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(times.buckets), strict=True))
    metric.add_metric([], buckets, times.total_ns / 1e9)
    return metric


def _family(name: str, what: str, kind: Kind, labels: Sequence[str]) -> CounterMetricFamily | GaugeMetricFamily:
    family = CounterMetricFamily if kind is Kind.COUNTER else GaugeMetricFamily
    return family(f"ringfeed_{name}", what, labels=labels)


def help_of(counter: Counter) -> str:
    """Return a counter's meaning as a sentence."""
    meaning, seconds = counter.word.meaning, ", in seconds" if counter.word.unit == NS else ""
    return f"{meaning[0].upper()}{meaning[1:]}{seconds}."


def _shared(rings: _Rings) -> Iterator[Metric]:
    """What every ring of the daemon has in its words alike, once."""
    for _, status in rings[:1]:
        for declared, owner in ((DaemonCounts, status), (StoreCounts, status.store)):
            for counter in counters_of(declared):
                metric = _family(counter.family, help_of(counter), counter.word.kind, [])
                metric.add_metric([], counter.metric_value(getattr(owner, counter.field)))
                yield metric
        for attribute, (name, what) in STORE_GAUGES.items():
            yield GaugeMetricFamily(f"ringfeed_{name}", what, value=getattr(status.store, attribute))


def _numbers(rings: _Rings) -> Iterator[Metric]:
    for attribute, (name, what) in GAUGES.items():
        metric = GaugeMetricFamily(f"ringfeed_{name}", what, labels=["ring"])
        for ring, status in rings:
            metric.add_metric(_labels(ring), getattr(status, attribute))
        yield metric


FAMILIES: Final = {"retries": "Downloads that were tried again, by cause."}
"""What a family is that several counters share."""


def _counted(rings: _Rings) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for counter in counters_of(RingCounts):
        if counter.word.kind is Kind.HIDDEN:
            continue
        label = counter.label
        metric = families.get(counter.family)
        if metric is None:
            names = ["ring"] if label is None else ["ring", label[0]]
            what = FAMILIES.get(counter.family) or help_of(counter)
            metric = families[counter.family] = _family(counter.family, what, counter.word.kind, names)
        for ring, status in rings:
            values = _labels(ring) if label is None else _labels(ring, label[1])
            metric.add_metric(values, counter.metric_value(getattr(status, counter.field)))
    yield from families.values()


def _states(views: Iterable[RingSnapshot]) -> Iterator[Metric]:
    metric = GaugeMetricFamily(
        "ringfeed_state", "1 for the state that the ring is in, else 0.", labels=["ring", "state"]
    )
    bound = GaugeMetricFamily("ringfeed_bound_by", "1 for what bounds the ring, else 0.", labels=["ring", "by"])
    for view in views:
        state = view.status.state if view.status else "dead"
        by = view.status.verdict.by if view.status else Bound.DAEMON
        for each in (*(state.name.lower() for state in RingState), "dead"):
            metric.add_metric(_labels(view.name, each), each == state)
        for cause in Bound:
            bound.add_metric(_labels(view.name, cause), cause is by)
    yield metric
    yield bound


def _readers(rings: _Rings) -> Iterator[Metric]:
    readers = [(ring, lane) for ring, status in rings for lane in status.consumers]
    yield from _of_lanes(readers, LANE_GAUGES, Kind.GAUGE)
    yield from _of_lanes(readers, LANE_COUNTERS, Kind.COUNTER)


def _of_lanes(
    readers: Sequence[tuple[str, LaneStatus]], numbers: Mapping[str, tuple[str, str]], kind: Kind
) -> Iterator[Metric]:
    for attribute, (name, what) in numbers.items():
        metric = _family(name, what, kind, ["ring", "lane", "group", "rank"])
        for ring, lane in readers:
            labels = _labels(ring, str(lane.lane), group_label(lane.group), str(lane.rank))
            metric.add_metric(labels, getattr(lane, attribute))
        yield metric


def metrics_text(views: Sequence[RingSnapshot], work: Work | None = None) -> bytes:
    """Everything, as text: the rings, their workers, and the supervisor process itself."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(RingCollector(views, work or Work()))
    return generate_latest(registry)
