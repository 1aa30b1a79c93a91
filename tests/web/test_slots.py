"""The page's drawing of a ring says of every slot what the stream says of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from ring_fixtures import served_ring, turning

import ringfeed
from ringfeed.cli.report import LaneStatus
from ringfeedd.web.page.slots import STATES, look_at_slots
from ringfeedd.web.snapshot import look

LANE = LaneStatus(0, 1, "job", 0, 1, 4, 0, 0, 0, 0.0, 0.0, "block", 0)


def lane(released: int, taken: int) -> LaneStatus:
    return dataclasses.replace(LANE, taken=taken, held_pairs=max(0, taken - released))


@dataclass
class FakeStream:
    slots: int
    floor: int
    published: int
    in_flight: set[int] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)


@st.composite
def streams(draw):
    slots, floor = draw(st.integers(1, 40)), draw(st.integers(0, 1000))
    published = floor + draw(st.integers(0, slots))
    beyond = st.integers(published, floor + 2 * slots)
    ready = draw(st.sets(beyond.filter(lambda seq: seq < floor + slots or published == floor + slots), max_size=20))
    ready = {seq for seq in ready if seq < floor + slots}
    in_flight = draw(st.sets(beyond, max_size=20)) - ready
    spans = st.tuples(st.integers(floor, published), st.integers(floor, floor + 2 * slots)).map(sorted)
    lanes = [lane(*span) for span in draw(st.lists(spans, max_size=4))]
    return FakeStream(slots, floor, published, in_flight, ready), lanes


def state_of(stream: FakeStream, lanes: list[LaneStatus], seq: int) -> str:
    if seq < stream.published:
        return "held" if any(one.taken - one.held_pairs <= seq < one.taken for one in lanes) else "published"
    return "decoded" if seq in stream.ready else "downloading" if seq in stream.in_flight else "empty"


@settings(deadline=None)
@given(streams())
def test_a_small_ring_shows_each_slot(case):
    stream, lanes = case
    view = look_at_slots(stream, lanes, most_cells=40)
    expected = [state_of(stream, lanes, stream.floor + slot) for slot in range(stream.slots)]
    assert [STATES[cell] for cell in view.cells] == expected
    assert view.counts == {state: expected.count(state) for state in STATES}
    assert view.ahead == sum(seq >= stream.floor + stream.slots for seq in stream.in_flight)


@settings(deadline=None)
@given(streams(), st.integers(1, 9))
def test_a_cell_shows_most_of_its_slots_state(case, most_cells):
    stream, lanes = case
    view = look_at_slots(stream, lanes, most_cells=most_cells)
    number = min(stream.slots, most_cells)
    cells: list[list[str]] = [[] for _ in range(number)]
    for slot in range(stream.slots):
        cells[slot * number // stream.slots].append(state_of(stream, lanes, stream.floor + slot))
    assert sum(view.counts.values()) == stream.slots
    for states, cell in zip(cells, view.cells, strict=True):
        assert states.count(STATES[cell]) == max(states.count(state) for state in STATES)


def test_invalid_lane_words_are_drawn_within_the_ring():
    mad = dataclasses.replace(LANE, taken=2**64 - 1, held_pairs=2**64 - 1)
    assert look_at_slots(FakeStream(8, 100, 104), [mad]).counts == {
        "held": 4,
        "published": 0,
        "decoded": 0,
        "downloading": 0,
        "empty": 4,
    }


def test_a_served_ring_shows_what_a_reader_holds():
    with served_ring(slots=16) as served:
        assert look(served.service).slots.counts["published"] == 16
        with turning(served), ringfeed.attach(served.name, batch_size=4) as reader:
            batch = next(iter(reader))
            view = look(served.service)
            assert view.slots.counts["held"] == len(batch) == 4
            assert view.slots.floor == served.service.ring.floor
