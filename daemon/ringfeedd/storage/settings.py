"""How a store is asked: what its source is opened with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ringfeedd.storage.base import READ_TIMEOUT_S
from ringfeedd.storage.pages import MAX_OBJECTS
from ringfeedd.storage.transport.base import DEFAULT_TRANSPORT, TransportName

LISTING_WAIT_S: Final = 60.0
"""Seconds for which one page of a listing is retried, unless the caller allows less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What a source is opened with. All but ``concurrency`` is of buckets, and ignored for a folder.

    Attributes:
        concurrency: requests (connections, or threads) at once, at most.
        emulator: the address of a GCS emulator, e.g. ``http://127.0.0.1:9023``; None for Google's own service.
        read_timeout_s: silence, seconds, after which a request for a page of a listing is cut.
        transport: what objects are downloaded with, see `ringfeedd.storage.transport.base`.
        user_project: the project that requests are billed to; None: the bucket's own.
        listing_wait_s: for which one page of a listing is tried again, seconds.
        max_objects: a listing of more is refused.
        answered: whether the store has ever answered. Until it has, a host that does not resolve or refuses is not
            asked again.
    """

    concurrency: int
    emulator: str | None = None
    read_timeout_s: float = READ_TIMEOUT_S
    transport: TransportName = DEFAULT_TRANSPORT
    user_project: str | None = None
    listing_wait_s: float = LISTING_WAIT_S
    max_objects: int = MAX_OBJECTS
    answered: bool = True
