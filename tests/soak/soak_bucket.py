"""The soak's bucket: a folder that the store serves, which grows by a pair at a time."""

from __future__ import annotations

import random
from pathlib import Path

BUCKET, PREFIX = "b", "set/"
ROOT = f"gs://{BUCKET}/{PREFIX.rstrip('/')}"


class Bucket:
    """Some pairs from the start, and a reserve of others that are put there one by one.

    Attributes:
        catalogs: the ids that it had, from the first time on; each but the first has one more than the one before.
    """

    def __init__(self, folder: Path, objects: dict[str, bytes], ids: list[str], reserve: int, seed: int) -> None:
        """Write what is there from the start.

        Args:
            folder: of buckets, as the store serves them.
            reserve: how many of the ids are put there later; which ones, the seed says: they lie among the others.
        """
        self._folder = folder / BUCKET
        self._draft = folder.with_name("draft")
        self._draft.parent.mkdir(parents=True, exist_ok=True)
        self._objects = objects
        self._reserve = random.Random(seed).sample(sorted(ids), reserve)
        first = [pair_id for pair_id in ids if pair_id not in set(self._reserve)]
        for pair_id in first:
            self._put(pair_id)
        self.catalogs = [first]

    def grow(self) -> str | None:
        """One pair more; its id, or None where no more are in reserve."""
        if not self._reserve:
            return None
        pair_id = self._reserve.pop()
        self._put(pair_id)
        self.catalogs.append([*self.catalogs[-1], pair_id])
        return pair_id

    def _put(self, pair_id: str) -> None:
        # The label first: whoever lists in between sees a label without an image, which is no pair.
        for name in (f"{PREFIX}labels/{pair_id}.png", f"{PREFIX}images/{pair_id}.jpg"):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._draft.write_bytes(self._objects[name])
            self._draft.rename(path)  # no listing sees half of a file
