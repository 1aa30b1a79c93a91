"""Which of a ring's counts a retry belongs to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ringfeed.shm.counters import RingCounts

_FIELDS: Final = {
    "timeout": "retries_timeout",
    "slow": "retries_timeout",
    "connect": "retries_connection",
    "reset": "retries_connection",
    "truncated": "retries_body",
    "size": "retries_body",
    "crc32c": "retries_body",
    "html": "retries_body",
    "redirect": "retries_body",
    "status": "retries_body",
    "http_429": "retries_429",
}
_SERVER_ERRORS: Final = "http_5"


def count_retries(counts: RingCounts, retries: Mapping[str, int]) -> None:
    """Add retries to a ring's counts.

    Args:
        retries: cause of a `SourceError` -> retries; each of them is added to exactly one cause of the counts.
    """
    for cause, count in retries.items():
        otherwise = "retries_5xx" if cause.startswith(_SERVER_ERRORS) else "retries_other"
        name = _FIELDS.get(cause, otherwise)
        setattr(counts, name, getattr(counts, name) + count)
        counts.fetch_retries += count
