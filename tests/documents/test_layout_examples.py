"""The rounds, dumps and timeouts of `shm_layout.md`, and the offsets of the C reader, are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from document import DOCUMENT, constants, timeouts, words
from document_reader import Block, sequences
from hypothesis import given
from hypothesis import strategies as st
from layout_dumps import ROUNDS, attached, dumps

from ringfeed.epochs import Epochs
from ringfeed.plan import Place, Plan
from ringfeed.reader.attachment import ANSWER_TIMEOUT_S, FREE_LANE_TIMEOUT_S
from ringfeed.reader.reconnect import _RETRY_S, RESTART_S
from ringfeed.shm import layout
from ringfeed.shm.layout import LANE_DROP_LAST, Answer, Leaving, RingState, Start
from ringfeed.shm.semaphore import WAIT_SLICE_S
from ringfeedd.reporting.errorfile import WRITE_INTERVAL_S
from ringfeedd.ring.groups import DEFAULT_LINGER_BLOCKING_S, DEFAULT_LINGER_S
from ringfeedd.ring.rendezvous import GATHER_S
from ringfeedd.supervisor.lanes import LIVENESS_INTERVAL_S
from ringfeedd.supervisor.supervisor import TICK_S

PAGE = sequences()
C_READER = (Path(__file__).parents[2] / "docs/examples/reader.c").read_text()


def test_every_timeout_has_the_codes_value():
    assert timeouts() == {
        "WAIT_SLICE_S": WAIT_SLICE_S,
        "FREE_LANE_TIMEOUT_S": FREE_LANE_TIMEOUT_S,
        "ANSWER_TIMEOUT_S": ANSWER_TIMEOUT_S,
        "RESTART_S": RESTART_S,
        "RETRY_S": _RETRY_S,
        "TICK_S": TICK_S,
        "LIVENESS_INTERVAL_S": LIVENESS_INTERVAL_S,
        "GATHER_S": GATHER_S,
        "DEFAULT_LINGER_S": DEFAULT_LINGER_S,
        "DEFAULT_LINGER_BLOCKING_S": DEFAULT_LINGER_BLOCKING_S,
        "WRITE_INTERVAL_S": WRITE_INTERVAL_S,
    }
    assert timeouts()["RETRY_S"] <= timeouts()["GATHER_S"] / 2
    assert timeouts()["LIVENESS_INTERVAL_S"] + timeouts()["TICK_S"] <= 0.5


@pytest.mark.parametrize("title", ROUNDS)
def test_the_worked_round_is_the_plans(title):
    assert f"\n{ROUNDS[title]}\n" in DOCUMENT


def test_the_dumps_are_a_real_rings():
    with attached() as served:
        for title, dump in dumps(served).items():
            assert f"```text\n{dump}\n```" in DOCUMENT, title


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    ranks=st.integers(1, 5),
    batch_size=st.integers(1, 9),
    drop_last=st.booleans(),
    position=st.integers(0, 59),
)
def test_the_documented_rounds_are_the_plans(lengths, ranks, batch_size, drop_last, position):
    if drop_last and min(lengths) < ranks * batch_size:
        drop_last = False  # refused by the daemon
    spans = tuple((2 * number, length) for number, length in enumerate(lengths))
    facts = {"catalogs": [{"since_epoch": epoch, "epoch_length": length} for epoch, length in spans]}
    flags = LANE_DROP_LAST * drop_last
    for rank in range(ranks):
        plan = Plan(Epochs(spans), ranks, rank, batch_size, drop_last)
        request = {"WORLD_SIZE": ranks, "BATCH_SIZE": batch_size, "RANK": rank, "FLAGS": flags}
        place = Place(1000, 0, min(position, lengths[0] - 1))
        for _ in range(12):
            ours = plan.block(place)
            following = (ours.next.seq, ours.next.epoch, ours.next.position)
            expected = Block(ours.seq, ours.pairs, ours.epoch, ours.position, not ours.repeated, following)
            assert PAGE.block(facts, request, (place.seq, place.epoch, place.position)) == expected
            place = ours.next


def test_the_c_reader_has_the_documented_offsets():
    numbers = {name: int(value) for name, value in re.findall(r"\b([A-Z_]+) = (\d+)\b", C_READER)}
    lane, record, state = words("Lane page"), words("Slot record"), words("State page")
    known = {**record, **lane, **constants(), "SLOT_FLAGS": record["FLAGS"], "ANSWER_REASON": lane["REASON_LENGTH"]}
    known |= {f"ANSWER_{name}": lane[name] for name in ("SEQ", "EPOCH", "POSITION")}
    known |= {name: layout.PAGE_BYTES + state[name] for name in ("STATE", "PUBLISHED", "CATALOG_CHANGES")}
    known |= {"STATE_REASON": layout.PAGE_BYTES + state["REASON_LENGTH"], "SLOT_TABLE": 2 * layout.PAGE_BYTES}
    known |= {"SEQ": record["SEQ"], "EPOCH": Start.EPOCH, "LEAVE": Leaving.LEAVE, "ACCEPTED": Answer.ACCEPTED}
    known |= {"STOPPING": RingState.STOPPING, "FAILED": RingState.FAILED}
    its_own = {"PAGE", "RECORD", "MAX_DESCRIPTOR", "MAX_CATALOGS", "DRAIN", "OK", "ERROR", "GONE"}
    assert {name: value for name, value in numbers.items() if name not in its_own} == {
        name: known[name] for name in numbers if name not in its_own
    }
    assert {"TAKEN", "RELEASED", "ANSWER_SEQ", "PUBLISHED", "ID_LENGTH"} <= set(numbers)
