"""Which ring gets the next places in the workers: emptiest first, what is left over for rings without readers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FIRST_PAIRS: Final = 8
"""A ring without readers gets so many even while others take everything, so that it becomes ready."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one ring could use at one moment, in pairs.

    Attributes:
        again: pairs that a worker lost or failed to get. The stream stops at them.
        now: further pairs that may be decoded as soon as they are downloaded.
        ahead: pairs after those that may be downloaded only.
        stock: pairs beyond the fastest reader that are published, or that workers have and may decode.
        ready: the published ones of these.
        room: the most that ``stock`` can be.
        read: the ring has a reader.
    """

    again: int
    now: int
    ahead: int
    stock: int
    ready: int
    room: int
    read: bool

    @property
    def hungry(self) -> bool:
        """Whether its readers have less than half of what the ring can hold for them."""
        return self.read and 2 * self.ready < self.room

    @property
    def first(self) -> int:
        """Pairs that it needs to become ready."""
        return 0 if self.ready else min(self.now, max(0, FIRST_PAIRS - self.stock))


NOTHING: Final = Need(again=0, now=0, ahead=0, stock=0, ready=0, room=0, read=False)


def divide(places: int, needs: Sequence[Need]) -> list[int]:
    """Give out places for pairs; returns how many each ring gets, no more than it can use.

    Rings with readers come first, the one with the smallest stock before the others, so that two hungry rings end up
    with equally many pairs in the workers. A ring without readers gets places only while no reader is short of pairs,
    apart from its `FIRST_PAIRS`.
    """
    stocks = [need.stock for need in needs]
    shares = [0] * len(needs)
    first = [need.now if need.read else need.first for need in needs]
    rest = [0 if need.read else need.now - need.first for need in needs]
    tiers = [[need.again for need in needs], first, [need.ahead if need.read else 0 for need in needs]]
    if not any(need.hungry for need in needs):
        tiers += [rest, [0 if need.read else need.ahead for need in needs]]
    for wants in tiers:
        given = _fill(places, stocks, wants)
        places -= sum(given)
        stocks = [stock + more for stock, more in zip(stocks, given, strict=True)]
        shares = [share + more for share, more in zip(shares, given, strict=True)]
    return shares


def _fill(places: int, stocks: Sequence[int], wants: Sequence[int]) -> list[int]:
    """Raise the lowest stocks first, as water fills a vessel; each by what it wants at most."""
    if sum(wants) <= places:
        return list(wants)
    low, high = min(stocks), max(stock + want for stock, want in zip(stocks, wants, strict=True))
    while low < high:  # the highest level for which there are enough places
        level = (low + high + 1) // 2
        if sum(_up_to(level, stocks, wants)) <= places:
            low = level
        else:
            high = level - 1
    given = _up_to(low, stocks, wants)
    left = places - sum(given)
    for number, want in enumerate(wants):
        if left and given[number] < want and stocks[number] + given[number] == low:
            given[number] += 1
            left -= 1
    return given


def _up_to(level: int, stocks: Sequence[int], wants: Sequence[int]) -> list[int]:
    return [max(0, min(want, level - stock)) for stock, want in zip(stocks, wants, strict=True)]
