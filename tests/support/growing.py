"""A folder of pairs that grows, and what readers see of an epoch of it."""

from __future__ import annotations

import shutil


def pictures(folder, part):
    return sorted(path for path in (folder / part).rglob("*.*"))


def names(folder):
    return sorted(str(path.relative_to(folder / "images").with_suffix("")) for path in pictures(folder, "images"))


def put(grown, folder, count):
    """The first ``count`` pairs of ``grown``, no others, into ``folder``."""
    for part in ("images", "labels"):
        for number, path in enumerate(pictures(grown, part)):
            target = folder / path.relative_to(grown)
            target.parent.mkdir(parents=True, exist_ok=True)
            if number < count and not target.exists():
                shutil.copyfile(path, target)
            elif number >= count:
                target.unlink(missing_ok=True)
    return folder


def epoch_of(*readers):
    """What each of the readers, who take turns, sees of its next epoch."""
    iterators, seen = [iter(reader) for reader in readers], [[] for _ in readers]
    while batches := [(number, batch) for number, it in enumerate(iterators) if (batch := next(it, None)) is not None]:
        for number, batch in batches:
            seen[number] += batch.ids
        del batches, batch
    return seen if len(readers) > 1 else seen[0]
