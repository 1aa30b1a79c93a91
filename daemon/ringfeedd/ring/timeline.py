"""Which listing gives the pairs of which epoch: one for all epochs, or two around a change. Pure.

With the order of a listing, this is all that says which pair has which number. `Ring` and `Revisions` both ask here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from ringfeed.epochs import Epochs
from ringfeedd.order import Order


class Listed(Protocol):
    """What a timeline needs of a listing."""

    @property
    def order(self) -> Order:
        """The order of its pairs in every epoch."""


Listing = TypeVar("Listing", bound=Listed)


class Timeline(Generic[Listing]):
    """The listings of one ring, by the epoch with which each begins.

    Attributes:
        epochs: their lengths.
        newest: the listing that is served from some epoch on for good.
        last_change: the epoch with which it begins.
    """

    def __init__(self, listing: Listing) -> None:
        """Begin with one listing for all epochs."""
        self._listings: dict[int, Listing] = {}
        self.restart(listing)

    def __repr__(self) -> str:
        each = (f"{listing.order.length} pairs from epoch {first}" for first, listing in self._listings.items())
        return f"Timeline({', '.join(each)})"

    def __iter__(self) -> Iterator[Listing]:
        """Yield the listings, the earliest first."""
        return iter(self._listings.values())

    def __len__(self) -> int:
        return len(self._listings)

    def of(self, epoch: int) -> Listing:
        """Return the listing that gives the pairs of an epoch."""
        if len(self._listings) == 1 or epoch >= self.last_change:
            return self.newest
        return self._listings[max(first for first in self._listings if first <= epoch)]

    def restart(self, listing: Listing) -> None:
        """Let one listing give the pairs of all epochs."""
        self._listings = {0: listing}
        self.newest, self.last_change = listing, 0
        self.epochs = Epochs.all(listing.order.length)

    def change(self, epoch: int, listing: Listing) -> None:
        """Let a listing begin with an epoch that is not before the last change."""
        self._listings[epoch] = listing
        self.newest, self.last_change = listing, epoch
        self.epochs = self.epochs.change(epoch, listing.order.length)

    def renew(self, listing: Listing) -> None:
        """Put a listing of the same ids in the place of the newest."""
        self._listings[self.last_change] = self.newest = listing
