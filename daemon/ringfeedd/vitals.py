"""A worker's vital words: what the pool sees of it without a message, and after it died."""

from __future__ import annotations

from typing import Final

SUSPECT_RING_SHIFT: Final = 56
"""A suspect word is ``ring << 56 | seq + 1``; 0 when the thread decodes nothing."""

HEARTBEAT_WORD: Final = 0
FIRST_SUSPECT_WORD: Final = 1
"""The words by which the pool sees what a worker does: a count of its loop's turns, then a suspect word a thread."""


def vital_words(threads: int) -> int:
    """How many words a worker with this many decoding threads has."""
    return FIRST_SUSPECT_WORD + threads
