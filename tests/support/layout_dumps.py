"""The worked round and the dumps of `shm_layout.md`, made of the real plan and of a real ring's memory.

`test_layout_examples.py` compares them with the page; ``python tests/support/layout_dumps.py`` prints them.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from ring_fixtures import Served, described_as, served_ring, unique_ring_name

from ringfeed.epochs import Epochs
from ringfeed.plan import Place, Plan
from ringfeed.shm import segment
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import FIRST_LANE_LOCK_BYTE, ID_BYTES, Header, Lane, SlotRecord, Start

NONCE = 0x1122_3344_5566_7788
PID = 4242
SLOT = 3


def rounds(place: Place, count: int, *, drop_last: bool = False) -> str:
    """Consecutive rounds of 3 ranks with batches of 8, in epochs of 50 pairs, as a table."""
    plans = [Plan(Epochs.all(50), 3, rank, 8, drop_last) for rank in range(3)]
    rows = [
        "| the round at | rank 0 reads | rank 1 reads | rank 2 reads | the next round at |",
        "|---|---|---|---|---|",
    ]
    for _ in range(count):
        blocks = [plan.block(place) for plan in plans]
        cells = [_pairs(block.seq, block.end, repeated=block.repeated) for block in blocks]
        following = blocks[0].next
        rows.append(f"| {' | '.join([_place(place), *cells, _place(following)])} |")
        place = following
    return "\n".join(rows)


def _pairs(first: int, end: int, *, repeated: bool) -> str:
    several = f"{first} to {end - 1}" if end > first + 1 else str(first)
    return several + ", not valid" * repeated


def _place(place: Place) -> str:
    return f"({place.seq}, {place.epoch}, {place.position})"


ROUNDS = {
    "from the beginning": rounds(Place(0, 0, 0), 4),
    "dropping": rounds(Place(0, 0, 0), 3, drop_last=True),
    "from the middle": rounds(Place(1010, 20, 10), 3),
}


@contextmanager
def attached() -> Iterator[Served]:
    """A ring on whose lane 0 rank 1 of 3 is reading its first block, of 2 pairs."""
    name = unique_ring_name()
    with mock.patch("secrets.token_hex", return_value="0123456789abcdef"):
        ring = served_ring(name=name)
        served = ring.__enter__()
    lock_fd = segment.open_lock(served.memory.descriptor.control)
    try:
        assert segment.try_lock(lock_fd, FIRST_LANE_LOCK_BYTE)
        page = served.memory.lanes[0]
        request = Request("job-1", 1, 3, 2, drop_last=False, start=Start.AUTO, at=(0, 0), anonymous=False, pid=PID)
        page.write_request(request, NONCE)
        served.turn()
        page[Lane.TAKEN] = page[Lane.RELEASED] = 2
        page[Lane.TAKEN] = 8
        yield served
    finally:
        os.close(lock_fd)
        ring.__exit__(None, None, None)


def dumps(served: Served) -> dict[str, str]:
    """Every dump by what it is of."""
    memory = served.memory
    geometry, control = memory.geometry, bytes(memory._bytes)
    record = geometry.slot_table_offset + SLOT * SlotRecord.BYTES
    row = geometry.id_table_offset + SLOT * ID_BYTES
    id_length = int.from_bytes(control[record + 8 * SlotRecord.ID_LENGTH :][:8], "little")
    lane = control[geometry.lane_offset(0) :]
    texts = {Lane.GROUP: len("job-1"), Lane.REASON: 0}
    slot_words = {name: 8 * word for name, word in _words(SlotRecord, without=("BYTES", "WORDS")).items()}
    described = described_as(memory.descriptor, ring="train", pid=PID)
    return {
        "header": _dump(control, _words(Header, without=("OFFSET",)), zeros=True),
        "record": _dump(control[record:], slot_words, zeros=True),
        "id": "\n".join(_text(control[row:], 0, id_length, "the id")),
        "lane": _dump(lane, _words(Lane), texts),
        "descriptor": "\n".join(textwrap.wrap(described.to_json().decode(), 120, break_long_words=False)),
    }


def _words(holder: type, without: tuple[str, ...] = ()) -> dict[str, int]:
    return {name: offset for name, offset in vars(holder).items() if name.isupper() and name not in without}


def _dump(data: bytes, words: dict[str, int], texts: dict[int, int] | None = None, *, zeros: bool = False) -> str:
    lines = []
    for name, offset in sorted(words.items(), key=lambda item: item[1]):
        if texts and offset in texts:
            lines += _text(data, offset, texts[offset], name)
        elif any(word := data[offset : offset + 8]) or zeros:
            number = int.from_bytes(word, "little")
            lines.append(f"{offset:6}  {word.hex(' ')}  {name} = {number if number < 1 << 32 else hex(number)}")
    return "\n".join(lines)


def _text(data: bytes, offset: int, length: int, name: str) -> list[str]:
    text = data[offset : offset + length]
    pieces = [text[i : i + 8].hex(" ") for i in range(0, length, 8)]
    return [
        f"{offset + 8 * i:6}  {piece:23}  {f'{name}: {text.decode()}' if i == 0 else ''}".rstrip()
        for i, piece in enumerate(pieces)
    ]


if __name__ == "__main__":
    for title, table in ROUNDS.items():
        print(f"{title}:\n\n{table}\n")
    with attached() as served_now:
        for title, dump in dumps(served_now).items():
            print(f"{title}:\n\n```text\n{dump}\n```\n")
