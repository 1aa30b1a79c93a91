"""What was promised: the cached listings by which the places of living trainers still mean what they meant."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ringfeedd.catalog.catalog import Catalog
from ringfeedd.config import Config
from ringfeedd.errors import StartError
from ringfeedd.nodes import Nodes
from ringfeedd.recovery.predecessor import Former
from ringfeedd.ring.revisions import Edition, make_editions


@dataclass(frozen=True)
class Start:
    """What a daemon begins with.

    Attributes:
        catalog: the listing of the first editions.
        editions: by split.
        later: by split, what follows from which epoch on: a refresh that was under way.
    """

    catalog: Catalog
    editions: dict[str, Edition]
    later: dict[str, tuple[int, Edition]] = field(default_factory=dict)


def find_promised(
    formers: Mapping[str, list[Former]], cached: Iterable[Catalog], config: Config, nodes: Nodes
) -> Start | None:
    """The start that serves on what former daemons' consumers read; None where the cache does not hold it.

    Args:
        formers: by split, the latest first; those without any are left out.
        cached: listings, the latest first.
    """
    first: dict[str, str] = {}
    later: dict[str, tuple[int, str]] = {}
    for split, of_split in formers.items():
        epoch, position = min(place.at for former in of_split for place in former.places)
        descriptor = of_split[0].descriptor
        if not position and epoch == descriptor.newest.since_epoch:
            # Who stands at the very start of a catalog's first epoch may know it by the name of the one before only.
            epoch = max(0, epoch - 1)
        first[split] = descriptor.catalog(epoch).fingerprint
        if descriptor.newest.since_epoch > epoch:
            later[split] = (descriptor.newest.since_epoch, descriptor.newest.fingerprint)
    begin: tuple[Catalog, dict[str, Edition]] | None = None
    following: dict[str, tuple[int, Edition]] = {}
    for catalog in cached:
        with contextlib.suppress(StartError):
            editions = make_editions(catalog, config, nodes)
            has = {split: edition.split.fingerprint for split, edition in editions.items()}
            if begin is None and all(has.get(split) == fingerprint for split, fingerprint in first.items()):
                begin = (catalog, editions)
            for split, (epoch, fingerprint) in later.items():
                if has.get(split) == fingerprint:
                    following[split] = (epoch, editions[split])
        if begin is not None and len(following) == len(later):
            return Start(*begin, following)
    return None
