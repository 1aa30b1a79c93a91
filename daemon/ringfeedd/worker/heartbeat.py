"""A worker's vital words: what the pool sees of it without a message, and after it died."""

from __future__ import annotations

from typing import Final

HEARTBEAT_WORD: Final = 0
"""Grows while the worker's loop turns."""

SUSPECT_WORD: Final = 1
"""The pair that is being decoded, ``ring << 56 | seq + 1``; 0 while none is."""

SUSPECT_RING_SHIFT: Final = 56
VITAL_WORDS: Final = 2
"""After them one word for each ring, written by the pool: the pair that the ring waits for."""


def vital_bytes(rings: int) -> int:
    """Return the size of a worker's vital words."""
    return (VITAL_WORDS + rings) * 8
