"""Which of the ring's words counts a retry of which cause. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ringfeed.shm.layout import State

_WORDS: Final = {
    "timeout": State.RETRIES_TIMEOUT,
    "slow": State.RETRIES_TIMEOUT,
    "connect": State.RETRIES_CONNECTION,
    "reset": State.RETRIES_CONNECTION,
    "truncated": State.RETRIES_BODY,
    "size": State.RETRIES_BODY,
    "crc32c": State.RETRIES_BODY,
    "html": State.RETRIES_BODY,
    "redirect": State.RETRIES_BODY,
    "status": State.RETRIES_BODY,
    "http_429": State.RETRIES_429,
}
_SERVER_ERRORS: Final = "http_5"


def retry_words(retries: Mapping[str, int]) -> dict[int, int]:
    """Offset of each of the ring's words about retries -> its value.

    Args:
        retries: cause of a `SourceError` -> retries; all of them are in exactly one word.
    """
    words = dict.fromkeys([*_WORDS.values(), State.RETRIES_5XX, State.RETRIES_OTHER], 0)
    for cause, count in retries.items():
        otherwise = State.RETRIES_5XX if cause.startswith(_SERVER_ERRORS) else State.RETRIES_OTHER
        words[_WORDS.get(cause, otherwise)] += count
    return words
