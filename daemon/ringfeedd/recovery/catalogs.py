"""The catalogs that a daemon begins with: a new listing, or those that living trainers read from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ringfeedd.catalog.catalog import TEST, Catalog
from ringfeedd.config import Config
from ringfeedd.errors import StartError
from ringfeedd.nodes import Nodes, NodeShare
from ringfeedd.order import make_order
from ringfeedd.recovery.predecessor import Predecessor
from ringfeedd.ring.revisions import Revision


@dataclass(frozen=True)
class Start:
    """What a daemon begins with.

    Attributes:
        catalog: the listing of the first revisions.
        revisions: by split.
        later: by split, what follows from which epoch on: a refresh that was under way.
        listed: the root was listed for it; else it begins with what an earlier listing had found.
    """

    catalog: Catalog
    revisions: dict[str, Revision]
    later: dict[str, tuple[int, Revision]] = field(default_factory=dict)
    listed: bool = False


def make_revisions(catalog: Catalog, config: Config, nodes: Nodes) -> dict[str, Revision]:
    """The revisions of one listing by the name of their split; without a test split that would have no pairs.

    Raises:
        StartError: there are too few pairs.
    """
    revisions = {}
    for name, split in catalog.split(config.test_ratio).items():
        if not len(split) and name == TEST:
            continue  # a handful of pairs may well give it none
        if not len(split):
            raise StartError(
                f"the {name} split of the {len(catalog)} pairs under {config.root} is empty with test_ratio = "
                f"{config.test_ratio:g}; lower it, or add pairs"
            )
        if len(split) < nodes.num_nodes:
            raise StartError(
                f"the {name} split of {config.root} has {len(split)} pairs, fewer than num_nodes = "
                f"{nodes.num_nodes}: each machine must get one; serve it on fewer machines, or add pairs"
            )
        order = NodeShare(make_order(config.order, length=len(split), seed=config.seed), nodes)
        revisions[name] = Revision(order, catalog, split)
    return revisions


def find_promised(
    predecessors: Mapping[str, list[Predecessor]], cached: Iterable[Catalog], config: Config, nodes: Nodes
) -> Start | None:
    """The start that serves on what previous daemons' consumers read; None where the cache does not hold it.

    Args:
        formers: by split, the latest first; those without any are left out.
        cached: listings, the latest first.
    """
    first: dict[str, str] = {}
    later: dict[str, tuple[int, str]] = {}
    for split, of_split in predecessors.items():
        epoch, position = min(place.at for former in of_split for place in former.places)
        descriptor = of_split[0].descriptor
        if not position and epoch == descriptor.newest.since_epoch:
            # Who stands at the very start of a catalog's first epoch may know it by the name of the one before only.
            epoch = max(0, epoch - 1)
        first[split] = descriptor.catalog(epoch).fingerprint
        if descriptor.newest.since_epoch > epoch:
            later[split] = (descriptor.newest.since_epoch, descriptor.newest.fingerprint)
    begin: tuple[Catalog, dict[str, Revision]] | None = None
    following: dict[str, tuple[int, Revision]] = {}
    for catalog in cached:
        with contextlib.suppress(StartError):
            revisions = make_revisions(catalog, config, nodes)
            has = {split: revision.split.fingerprint for split, revision in revisions.items()}
            if begin is None and all(has.get(split) == fingerprint for split, fingerprint in first.items()):
                begin = (catalog, revisions)
            for split, (epoch, fingerprint) in later.items():
                if has.get(split) == fingerprint:
                    following[split] = (epoch, revisions[split])
        if begin is not None and len(following) == len(later):
            return Start(*begin, following)
    return None
