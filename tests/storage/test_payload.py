"""Packed bodies are unpacked once, within a bound."""

import gzip
import random
import tracemalloc
import zlib

import pytest

from ringfeedd.storage.payload import unpacked

CONTENTS = {
    "zeros": bytes(300_000),
    "noise": random.Random(5).randbytes(300_000),
    "matches": b"".join(random.Random(6).randbytes(7) * 40 for _ in range(900)),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_body_is_unpacked_up_to_its_bound(content):
    """One byte more tells that it is too long."""
    for body in (content, gzip.compress(content)):
        assert unpacked(body, len(content)) == content
        assert unpacked(body, len(content) - 1) == content
        assert unpacked(body, len(content) - 2) == content[:-1]


def test_a_bomb_costs_no_more_than_a_page():
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    try:
        assert len(unpacked(bomb, 4 << 20)) == (4 << 20) + 1
        assert tracemalloc.get_traced_memory()[1] < 10 << 20  # what zlib gives in blocks is joined
    finally:
        tracemalloc.stop()


def test_a_damaged_body_has_no_content():
    packed = gzip.compress(CONTENTS["noise"])
    for damaged in (packed[:-9], packed[:20] + b"\xff" * 30 + packed[50:], packed[:2]):
        assert unpacked(damaged, 1 << 20) is None
