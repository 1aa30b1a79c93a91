"""Sizes and durations as people write them: ``"8 GiB"``, ``"30s"``, ``"1h 30min"``. Pure."""

from __future__ import annotations

import math
import re
from typing import Final

BYTE_UNITS: Final = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    **dict.fromkeys(("k", "kib"), 1 << 10),
    **dict.fromkeys(("m", "mib"), 1 << 20),
    **dict.fromkeys(("g", "gib"), 1 << 30),
    **dict.fromkeys(("t", "tib"), 1 << 40),
}
"""Bytes of each unit, in lower case. A letter alone is binary, as for systemd."""

SECOND_UNITS: Final = {
    "ms": 0.001,
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
"""Seconds of each unit, in lower case."""

_NUMBER: Final = r"\d+(?:\.\d+)?"
_SIZE: Final = re.compile(rf"({_NUMBER})\s*([a-z]+)(?:/s)?", re.IGNORECASE)
_PART: Final = re.compile(rf"({_NUMBER})\s*([a-z]+)", re.IGNORECASE)
_DURATION: Final = re.compile(rf"(?:{_NUMBER}\s*[a-z]+[\s,]*)+", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """Return the bytes of ``"8 GiB"``, ``"500MB"`` or ``"2 KiB/s"``; None without a unit that is known."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in BYTE_UNITS:
        return None
    size = float(match[1]) * BYTE_UNITS[match[2].lower()]
    return round(size) if math.isfinite(size) else None


def parse_duration(text: str) -> float | None:
    """Return the seconds of ``"30s"``, ``"2 min"`` or ``"1h 30min"``; None without units that are known."""
    if _DURATION.fullmatch(text.strip()) is None:
        return None
    parts = _PART.findall(text)
    if any(unit.lower() not in SECOND_UNITS for _, unit in parts):
        return None
    return float(sum(float(number) * SECOND_UNITS[unit.lower()] for number, unit in parts))
