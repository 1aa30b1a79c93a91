"""What a timeline needs of a listing, for rings whose pairs need no names."""

from __future__ import annotations

from dataclasses import dataclass

from ringfeedd.order import Order


@dataclass(frozen=True, slots=True)
class OrderAlone:
    """An order whose pairs have no names."""

    order: Order
