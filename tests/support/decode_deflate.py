"""Deflate streams of codes that are reserved: written bit by bit, since no encoder does."""

from __future__ import annotations

import struct
import zlib

from decode_reference import png_chunk

WIDTH, HEIGHT = 129, 2
"""A row of 129 values and its filter byte are as long as a literal and a match of 129; two of them are 260 bytes."""

_END = 256


class _Bits:
    """Bits as deflate packs them, from the lowest of each byte on."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def number(self, value: int, count: int) -> None:
        self.bits += [value >> place & 1 for place in range(count)]

    def code(self, value: int, count: int) -> None:
        self.bits += [value >> place & 1 for place in reversed(range(count))]

    def symbol(self, symbol: int) -> None:
        """A literal or length in the fixed code."""
        if symbol < 144:
            self.code(0x30 + symbol, 8)
        elif symbol < 256:
            self.code(0x190 + symbol - 144, 9)
        elif symbol < 280:
            self.code(symbol - 256, 7)
        else:
            self.code(0xC0 + symbol - 280, 8)

    def stream(self, result: bytes) -> bytes:
        """A zlib stream that claims to unpack to `result`."""
        bits = self.bits + [0] * (-len(self.bits) % 8)
        body = bytes(sum(bit << place for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))
        return b"\x78\x9c" + body + zlib.adler32(result).to_bytes(4, "big")


def reserved_length(symbol: int) -> bytes:
    """Two zeros and a match of a reserved length, which libdeflate takes for 258: 260 zeros."""
    bits = _Bits()
    bits.number(1, 1)
    bits.number(1, 2)
    for one in (0, 0, symbol):
        bits.symbol(one)
    bits.code(0, 5)
    bits.symbol(_END)
    return bits.stream(bytes(260))


def reserved_distance(symbol: int) -> bytes:
    """257 zeros and a match of three from a reserved distance."""
    bits = _Bits()
    bits.number(1, 1)
    bits.number(1, 2)
    for _ in range(257):
        bits.symbol(0)
    bits.symbol(257)
    bits.code(symbol, 5)
    bits.number(0, 13)
    bits.symbol(_END)
    return bits.stream(bytes(260))


def png_of(stream: bytes) -> bytes:
    """A grey label of 129x2 whose rows are this stream."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in parts)


RESERVED_LENGTHS = {f"length {symbol}": png_of(reserved_length(symbol)) for symbol in (286, 287)}
RESERVED_DISTANCES = {f"distance {symbol}": png_of(reserved_distance(symbol)) for symbol in (30, 31)}
ODD_PNGS = RESERVED_LENGTHS | RESERVED_DISTANCES
