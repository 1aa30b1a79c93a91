"""A worker's vital words: what the pool sees of it without a message, and after it died."""

from __future__ import annotations

from typing import Final

from ringfeedd.system.histogram import DECODE_BOUNDS_S, FETCH_BOUNDS_S, Times, histogram_words
from ringfeedd.system.work import Work

HEARTBEAT_WORD: Final = 0
"""Grows while the worker's loop turns."""

SUSPECT_WORD: Final = 1
"""The pair that is being decoded, ``ring << 56 | seq + 1``; 0 while none is."""

CPU_NS_WORD: Final = 2
"""CPU time of the process."""

BUSY_NS_WORD: Final = 3
"""Time in which it had pairs to decode."""

UNDER_WAY_WORD: Final = 4
"""Requests under way."""

WINDOW_WORD: Final = 5
"""Requests that may be under way."""

CREDIT_WORD: Final = 6
"""Pairs to be downloaded that it takes from its start on, all told; 0: as many as the pool has."""

FETCH_WORDS: Final = 7
DECODE_WORDS: Final = FETCH_WORDS + histogram_words(FETCH_BOUNDS_S)
"""Where the histograms of downloads and of decodes begin."""

SUSPECT_RING_SHIFT: Final = 56
VITAL_WORDS: Final = DECODE_WORDS + histogram_words(DECODE_BOUNDS_S)
"""After them one word for each ring, written by the pool: the pair that the ring waits for."""


def vital_bytes(rings: int) -> int:
    """Return the size of a worker's vital words."""
    return (VITAL_WORDS + rings) * 8


def read_work(vitals: memoryview) -> Work:
    """Return what one worker's words say."""
    words: list[int] = vitals[:VITAL_WORDS].tolist()
    return Work(
        cpu_ns=words[CPU_NS_WORD],
        busy_ns=words[BUSY_NS_WORD],
        under_way=words[UNDER_WAY_WORD],
        window=words[WINDOW_WORD],
        fetched=Times.of(FETCH_BOUNDS_S, words[FETCH_WORDS:DECODE_WORDS]),
        decoded=Times.of(DECODE_BOUNDS_S, words[DECODE_WORDS:VITAL_WORDS]),
    )
