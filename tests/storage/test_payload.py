"""Packed bodies are measured before they are unpacked."""

import gzip
import random
import tracemalloc
import zlib

import pytest

from ringfeedd.storage.payload import fits, unpacked

CONTENTS = {
    "zeros": bytes(300_000),
    "noise": random.Random(5).randbytes(300_000),
    "matches": b"".join(random.Random(6).randbytes(7) * 40 for _ in range(900)),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_packed_body_is_measured_exactly(content):
    packed = gzip.compress(content)
    assert fits(packed, len(content))
    assert not fits(packed, len(content) - 1)
    assert fits(content, len(content))
    assert not fits(content, len(content) - 1)
    assert unpacked(packed, len(content)) == content


def test_a_bomb_is_measured_in_pieces():
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    tracemalloc.start()
    try:
        assert not fits(bomb, 16 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_damaged_body_is_left_to_unpacking():
    packed = gzip.compress(CONTENTS["noise"])
    for damaged in (packed[:-9], packed[:20] + b"\xff" * 30 + packed[50:], packed[:2]):
        assert fits(damaged, 1 << 20)
        with pytest.raises(ValueError, match=r"\w"):
            unpacked(damaged, 1 << 20)
    with pytest.raises(ValueError, match="it ends too early"):
        unpacked(packed[:-9], 1 << 20)
