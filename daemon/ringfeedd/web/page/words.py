"""Numbers and times as people read them."""

from __future__ import annotations

from typing import Final

NONE: Final = "\N{EN DASH}"
"""Stands for a number that there is not."""


def number(value: float) -> str:
    """A count or a rate: at most three digits behind the point, fewer the larger it is."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """A share of 1, e.g. ``38 %``; a dash where there is none."""
    return NONE if share is None else f"{100 * share:.0f} %"


def span(seconds: float) -> str:
    """A time, in its two largest units, e.g. ``3 d 4 h``."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        whole, left = divmod(left, size)
        if whole or (unit == "s" and not parts):
            parts.append(f"{whole} {unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts)
