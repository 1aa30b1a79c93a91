"""`shm_layout.md` is the contract: the code has its words and no others, and a reader can be written from it alone."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from document import DOCUMENT, constants, enumerations, sizes, tables, words
from document_reader import DocumentReader
from hypothesis import example, given
from hypothesis import strategies as st
from ring_fixtures import Served, fake_revision, served_ring, small_geometry, turning

import ringfeed
from ringfeed.shm import layout, segment
from ringfeed.shm.counters import counters
from ringfeed.shm.descriptor import Descriptor, ServedCatalog
from ringfeed.shm.failures import FailedPair, FailedPairs
from ringfeed.shm.identity import SETTINGS
from ringfeed.shm.layout import Answer, Field, Geometry, Header, Lane, Leaving, RingState, SlotRecord, Start, State
from ringfeedd.ring.rendezvous import GATHER_S


def in_code(holder: type, *, without: tuple[str, ...] = (), origin: int = 0) -> dict[str, int]:
    names = (name for name in vars(holder) if name.isupper() and name not in without)
    return {name: getattr(holder, name) - origin for name in names}


AREAS = {
    "Header page": in_code(Header, without=("OFFSET",)),
    "State page": in_code(State, without=("OFFSET",), origin=State.OFFSET)
    | {counter.name.upper(): counter.word.offset for counter in counters()},
    "Slot record": {name: 8 * word for name, word in in_code(SlotRecord, without=("BYTES", "WORDS")).items()},
    "Lane page": in_code(Lane),
}


@pytest.mark.parametrize("area", AREAS)
def test_document_and_code_have_the_same_words(area):
    assert words(area) == AREAS[area]


def test_every_counter_has_its_row_in_the_document():
    rows = {row[2]: row for row in tables("State page")[0]}
    for counter in counters():
        word = counter.word
        expected = [str(word.offset), "8", counter.name.upper(), word.unit, word.meaning]
        assert rows[expected[2]] == expected, "| {} | {} | `{}` | {} | {} |".format(*expected)


def test_document_and_code_have_the_same_constants():
    documented = constants()
    assert documented == {name: getattr(layout, name) for name in documented}
    of_the_bytes = {n for n in vars(layout) if n.isupper() and isinstance(getattr(layout, n), int)} - {"MAX_UINT64"}
    assert of_the_bytes == set(documented)


def test_document_and_code_have_the_same_enumeration_members():
    kinds: list[type[enum.IntEnum]] = [RingState, Start, Leaving, Answer]
    assert enumerations() == {kind.__name__: {m.name: m.value for m in kind} for kind in kinds}


def test_the_descriptors_keys_are_the_documented_ones():
    descriptor, geometry, field, catalog, identity = ({row[0] for row in table} for table in tables("Descriptor"))
    assert descriptor == {field.name for field in dataclasses.fields(Descriptor)}
    assert geometry == {field.name for field in dataclasses.fields(Geometry)}
    assert field == {field.name for field in dataclasses.fields(Field)}
    assert catalog == {field.name for field in dataclasses.fields(ServedCatalog)}
    assert identity == set(SETTINGS)
    assert {row[0]: row[2] for row in tables("Descriptor")[4]} == SETTINGS


def test_every_link_within_the_page_has_its_heading():
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall("(?m)^#+ (.*)$", DOCUMENT)}
    assert set(re.findall(r"\]\(#([^)]*)\)", DOCUMENT)) <= headings


def test_the_upgrade_page_names_this_releases_version():
    page = (Path(__file__).parents[2] / "docs/upgrade.md").read_text()
    release = ringfeed.__version__.rpartition(".")[0]
    assert f"| {release} | {layout.LAYOUT_VERSION} |" in page


def test_the_list_of_failed_pairs_has_documented_keys():
    listed, pair = ({row[0] for row in table} for table in tables("Failed pairs"))
    assert listed == {field.name for field in dataclasses.fields(FailedPairs)}
    assert pair == {field.name for field in dataclasses.fields(FailedPair)}


@pytest.mark.parametrize("area", AREAS)
def test_words_are_aligned_apart_and_within_their_area(area):
    spans = sizes(area)
    assert all(begin % 8 == 0 for begin, _, _ in spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert spans[-1][1] <= (SlotRecord.BYTES if area == "Slot record" else layout.PAGE_BYTES)


def test_words_have_eight_bytes_and_texts_documented_sizes():
    texts = {"GROUP": layout.GROUP_BYTES, "REASON": layout.REASON_BYTES, "REFRESH": layout.REASON_BYTES}
    texts |= {"LATE": layout.REASON_BYTES, "OTHER_RING": layout.RING_BYTES}
    for area in AREAS:
        for begin, end, word in sizes(area):
            assert end - begin == texts.get(word, layout.WORD_BYTES), (area, word)


def test_each_half_lane_page_has_one_writer():
    spans = {word: (begin, end) for begin, end, word in sizes("Lane page")}
    writers = {row[2]: row[4] for row in tables("Lane page")[0]}
    assert set(writers.values()) == {"consumer", "daemon"}
    for word, (begin, end) in spans.items():
        assert end <= 2048 if writers[word] == "consumer" else begin >= 2048, word


def test_progress_shares_no_cache_line_with_the_daemons():
    assert Lane.TAKEN // 64 == Lane.LEAVING // 64
    assert Lane.TAKEN // 64 not in {Lane.GROUP // 64, Lane.BATCHES // 64, Lane.ANSWER_NONCE // 64}


def test_the_documents_example_is_computed_right():
    geometry = layout.plan_geometry(
        slots=256, lanes=64, image_row=(224, 224, 3), label_row=(224, 224), label_dtype="uint8"
    )
    assert geometry.mirrored
    example = {row[0]: int(row[1]) for row in tables("Example")[0]}
    assert example == {
        "image row": geometry.image.row_bytes,
        "label row": geometry.label.row_bytes,
        "slot table": geometry.slot_table_offset,
        "id table": geometry.id_table_offset,
        "lane pages": geometry.lanes_offset,
        "lane 3": geometry.lane_offset(3),
        "control size": geometry.control_bytes,
        "label offset": geometry.label.offset,
        "data size": geometry.data_bytes,
    }


@given(
    slots=st.integers(1, 5000),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    colours=st.booleans(),
    dtype=st.sampled_from(["uint8", "uint16"]),
)
def test_regions_do_not_overlap(slots, height, width, colours, dtype):
    """Those of a mirrored ring are whole pages."""
    label_row = (height, width, 3) if colours else (height, width)
    geometry = layout.plan_geometry(
        slots=slots, lanes=2, image_row=(height, width, 3), label_row=label_row, label_dtype=dtype
    )
    assert slots <= geometry.slots <= slots * layout.MAX_MIRROR_GROWTH
    regions = [geometry.slots * field.row_bytes for field in (geometry.image, geometry.label)]
    assert geometry.mirrored or geometry.slots == slots
    assert not geometry.mirrored or all(region % layout.PAGE_BYTES == 0 for region in regions)
    assert geometry.image.offset + regions[0] <= geometry.label.offset
    assert geometry.label.offset + regions[1] <= geometry.data_bytes
    for offset in (geometry.label.offset, geometry.id_table_offset, geometry.lanes_offset, geometry.data_bytes):
        assert offset % layout.PAGE_BYTES == 0
    assert geometry.slot_table_offset + geometry.slots * SlotRecord.BYTES <= geometry.id_table_offset
    assert geometry.id_table_offset + geometry.slots * layout.ID_BYTES <= geometry.lanes_offset


@pytest.fixture
def served():
    with served_ring() as served:
        yield served


def test_a_documented_reader_attaches_reads_and_detaches(served: Served):
    """It is written from the document alone."""
    reader = DocumentReader(served.name)
    header = {name: reader.word(offset) for name, offset in reader.header_words.items()}
    assert header == {
        "MAGIC": reader.constants["MAGIC"],
        "LAYOUT_VERSION": reader.constants["LAYOUT_VERSION"],
        "GENERATION": int(reader.facts["generation"], 16),
        "CONTROL_BYTES": reader.lane_pages + reader.lanes * reader.constants["PAGE_BYTES"],
        "DATA_BYTES": len(reader.data),
        "SLOTS": reader.slots,
        "LANES": reader.lanes,
    }
    assert len(reader.control) == header["CONTROL_BYTES"]
    assert reader.lock(reader.constants["DAEMON_LOCK_BYTE"], query=True), "the daemon lives"
    reader.ask("größe".encode(), batch_size=4)
    served.turn()
    assert (reader.lane_word("ANSWER_NONCE"), reader.lane_word("ANSWER")) == (4711, Answer.ACCEPTED)
    (catalog,) = reader.facts["catalogs"]
    seq = reader.lane_word("SEQ")
    for _ in range(3 * reader.slots // 4):
        reader.set_lane_word("TAKEN", seq + 4)
        for pair in range(seq, seq + 4):
            index = 1000 + pair % catalog["epoch_length"]
            pair_id, image, label = reader.read(pair)
            assert pair_id == f"größe/{index}"
            assert set(image) == {index % 251}
            assert set(np.frombuffer(label, "<u2").tolist()) == {index}
        seq += 4
        reader.set_lane_word("RELEASED", seq)
        served.turn()
        if (seq % catalog["epoch_length"]) == 48:  # without LANE_DROP_LAST, a last block of two pairs
            seq += 2
    reader.set_lane_word("LEAVING", Leaving.LEAVE)
    os.close(reader.lock_fd)
    served.turn()
    assert reader.lane_word("ANSWER_NONCE") == 0
    assert len(served.service.groups) == 0


def test_a_documented_reader_continues_through_a_refresh(served: Served):
    reader = DocumentReader(served.name)
    reader.ask(b"growing", batch_size=5)
    served.turn()
    served.service.offer(fake_revision(60, fingerprint="a" * 32))
    served.turn()
    seq, epoch, position = (reader.lane_word(name) for name in ("SEQ", "EPOCH", "POSITION"))
    read = []
    while epoch < 2:
        if reader.word(reader.state_page + reader.state_words["CATALOG_CHANGES"]) > reader.facts["catalog_changes"]:
            reader.facts = json.loads(reader.descriptor.read_text())
        (length,) = [c["epoch_length"] for c in reader.facts["catalogs"] if c["since_epoch"] <= epoch][-1:]
        assert length % 5 == 0, "every block is a whole one here"
        read += [(epoch, position + i, reader.read(seq + i)[0]) for i in range(5)]
        seq, epoch, position = (seq + 5, epoch, position + 5) if position + 5 < length else (seq + 5, epoch + 1, 0)
        reader.set_lane_word("TAKEN", seq)
        reader.set_lane_word("RELEASED", seq)
        served.turn()
    expected = [(0, i, f"größe/{1000 + i}") for i in range(50)] + [(1, i, f"größe/{1000 + i}") for i in range(60)]
    assert read == expected
    os.close(reader.lock_fd)


def test_a_documented_reader_learns_why_it_was_refused(served: Served):
    reader = DocumentReader(served.name)
    reader.ask(b"greedy", batch_size=1000)
    served.turn()
    assert (reader.lane_word("ANSWER_NONCE"), reader.lane_word("ANSWER")) == (4711, Answer.REFUSED)
    begin = reader.lane_page + reader.lane_words["REASON"]
    reason = reader.control[begin : begin + reader.lane_word("REASON_LENGTH")].decode()
    assert "batch_size=1000" in reason
    os.close(reader.lock_fd)
    served.turn()
    assert reader.lane_word("ANSWER_NONCE") == 0


def test_a_lane_that_changed_hands_keeps_no_place(served: Served):
    """The daemon did not see it change."""
    first = DocumentReader(served.name)
    first.ask(b"first", batch_size=4)
    served.turn()
    assert first.lane_word("ANSWER") == Answer.ACCEPTED
    os.close(first.lock_fd)  # it dies, and before the daemon looks, another one has its lane and asks there
    second = DocumentReader(served.name)
    second.lane_page = second.lane_pages
    second.set_lane_word("NONCE", 0)
    assert second.lock(1)
    for name, value in {"TAKEN": 0, "RELEASED": 0, "START": Start.NOW, "GROUP_LENGTH": 6, "NONCE": 4712}.items():
        second.set_lane_word(name, value)
    begin = second.lane_page + second.lane_words["GROUP"]
    second.control[begin : begin + 6] = b"second"
    served.turn()
    assert second.lane_word("ANSWER_NONCE") == 4712
    assert [(group.name, group.live) for group in served.service.groups] == [("first", False), ("second", True)]
    served.turn(1000.0)
    assert [group.name for group in served.service.groups] == ["second"]


def test_a_dead_processs_request_grants_its_successor_nothing(served: Served):
    """On the same lane."""
    first = DocumentReader(served.name)
    first.ask(b"first", batch_size=4)
    os.close(first.lock_fd)
    served.turn()
    assert len(served.service.groups) == 0
    second = DocumentReader(served.name)
    second.ask(b"second", batch_size=4)
    second.set_lane_word("NONCE", 4712)
    served.turn()
    assert second.lane_word("ANSWER_NONCE") == 4712
    assert [group.name for group in served.service.groups] == ["second"]
    os.close(second.lock_fd)


def test_a_consumer_avoids_a_lane_not_yet_freed(served: Served, monkeypatch):
    """The daemon has not noticed that its last one left."""
    lock, stop = segment.try_lock, threading.Event()

    def another_comes_and_goes_just_before(fd: int, byte: int) -> bool:
        if byte == layout.FIRST_LANE_LOCK_BYTE:
            served.memory.lanes[0][Lane.ANSWER_NONCE] = 99
        return lock(fd, byte)

    def serve() -> None:
        while not stop.wait(0.005):
            served.turn(0.005)

    monkeypatch.setattr(segment, "try_lock", another_comes_and_goes_just_before)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with ringfeed.attach(served.name, batch_size=2) as reader:
            assert not served.memory.lane_lives(0)
            assert served.memory.lane_lives(1)
            assert next(iter(reader)).ids == ["größe/1000", "größe/1001"]
    finally:
        stop.set()
        thread.join()


def test_a_request_clears_the_words_of_later_releases(served: Served):
    page = served.memory.lanes[0]
    for offset in range(Lane.RANK, Lane.ANSWER_NONCE, 8):
        page[offset] = 2**64 - 1
    with turning(served), ringfeed.attach(served.name, batch_size=2):
        named = {offset for begin, end, _ in sizes("Lane page") for offset in range(begin, end, 8)}
        assert not any(page[offset] for offset in range(0, 2048, 8) if offset not in named)


def test_a_stop_during_an_attach_is_reported(served: Served, monkeypatch):
    lock = segment.try_lock

    def stopped_just_then(fd: int, byte: int) -> bool:
        served.memory.unlink()
        return lock(fd, byte)

    monkeypatch.setattr(segment, "try_lock", stopped_just_then)
    with pytest.raises(ringfeed.DaemonGoneError, match="was stopped; start it again"):
        ringfeed.attach(served.name, batch_size=2)


@pytest.mark.parametrize("taken", [2**48 - 1, 2**48, 2**63, 2**64 - 1])
def test_nonsense_from_a_consumer_stops_no_other_process(served: Served, taken):
    reader = DocumentReader(served.name)
    reader.ask(b"mad", batch_size=4)
    served.turn()
    reader.set_lane_word("TAKEN", taken)
    reader.set_lane_word("RELEASED", taken)
    reader.set_lane_word("LEAVING", 99)
    served.turn()
    assert served.service.failed is None
    assert served.memory._words[State.PUBLISHED >> 3] == served.memory.geometry.slots
    os.close(reader.lock_fd)


@example(request=[1, 3, 1, 3, 0, 0, 67239, 87155045949038, 249840])
@given(request=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), min_size=9, max_size=9))
def test_no_request_can_stop_the_daemon(shared_ring, request):
    page = shared_ring.memory.lanes[0]
    reader = DocumentReader(shared_ring.name)
    reader.lane_page = reader.lane_pages
    assert reader.lock(1)
    names = ["RANK", "WORLD_SIZE", "BATCH_SIZE", "START", "START_EPOCH", "START_POSITION", "FLAGS", "PID"]
    for name, value in zip([*names, "GROUP_LENGTH"], request, strict=True):
        reader.set_lane_word(name, value)
    reader.set_lane_word("NONCE", page[Lane.NONCE] % 1000 + 1)
    shared_ring.turn()
    shared_ring.turn(GATHER_S)  # it may be one rank of several, and the others are waited for at first
    assert page[Lane.ANSWER_NONCE] == page[Lane.NONCE]
    os.close(reader.lock_fd)
    shared_ring.turn()
    shared_ring.turn(1000.0)
    assert page[Lane.ANSWER_NONCE] == 0
    assert len(shared_ring.service.groups) == 0


@pytest.fixture(scope="module")
def shared_ring():
    with served_ring(slots=8, lanes=1) as served:
        yield served


def test_the_layout_is_imported_without_torch_or_aiohttp():
    code = "import ringfeed, sys; sys.exit(bool({'torch', 'aiohttp', 'msgspec', 'PIL'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_fixtures_geometry_is_mirrored():
    assert small_geometry().mirrored
