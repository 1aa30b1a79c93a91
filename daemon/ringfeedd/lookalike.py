"""When no pair was found: what the objects that are there look like, and the templates that would have found them."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .catalog import Incomplete
    from .keys import KeyTemplates
    from .sources.base import Source

LOOKED_AT = 20_000
"""Objects; a layout shows in far fewer."""

MAX_DEPTH = 6
MAX_GROUPS = 40

_LABEL_WORDS = re.compile(r"label|mask|annot|seg|target|(?<![a-z])gt(?![a-z])|truth", re.IGNORECASE)
_IMAGE_WORDS = re.compile(r"image|img|photo|jpe?g|rgb|input", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Group:
    """Objects of one form: `template` holds ``{id}``, `ids` is what stands there."""

    template: str
    ids: frozenset[str]

    @property
    def looks_like_labels(self) -> int:
        """The greater, the more; to tell the two sides of a pair apart."""
        lossless = self.template.lower().endswith((".png", ".tif", ".tiff", ".bmp", ".npy"))
        return 2 * bool(_LABEL_WORDS.search(self.template)) - 2 * bool(_IMAGE_WORDS.search(self.template)) + lossless

    def __str__(self) -> str:
        return f"{len(self.ids):,} objects like `{self.template.replace('{id}', '*')}`"


async def no_pairs_sentence(source: Source, templates: KeyTemplates, incomplete: Incomplete) -> str:
    """One sentence for the operator of a root without pairs.

    Raises:
        SourceError: the root cannot be listed.
    """
    names: list[str] = []
    async for page in source.list_pages(""):
        names += [info.name for info in page if not info.name.endswith("/")]
        if len(names) >= LOOKED_AT:
            break
    return describe(source.root, names, templates, incomplete)


def describe(root: str, names: list[str], templates: KeyTemplates, incomplete: Incomplete) -> str:
    """The sentence for these names (relative to `root`). Pure."""
    if not names:
        return f"No pairs under {root}: there is nothing in it; check the path, upper and lower case included."
    if pair := _best_pair(names):
        image, label = pair
        return (
            f"No pairs under {root}: found {image} and {str(label).replace(' objects', '')}; "
            f"pass --images '{image.template}' --labels '{label.template}'."
        )
    looked_for = f"Looked for --images '{templates.images}' --labels '{templates.labels}'"
    halves = [
        f"{incomplete.images_without_label.count:,} images without a label",
        f"{incomplete.labels_without_image.count:,} labels without an image",
        f"{incomplete.unusable_ids.count:,} objects with an id that cannot be used",
    ]
    seen = ", ".join(half for half in halves if not half.startswith("0 "))
    largest = sorted(_groups(names, 1) or _groups(names, 0), key=lambda group: -len(group.ids))[:3]
    found = seen or ", ".join(str(group) for group in largest)
    return f"No pairs under {root}: found {found}. {looked_for}; give templates under which both share their ids."


def _best_pair(names: list[str]) -> tuple[_Group, _Group] | None:
    """The two forms that have the most ids in common; of equals, the shallower."""
    best: tuple[int, _Group, _Group] | None = None
    for depth in range(MAX_DEPTH):
        groups = sorted(_groups(names, depth), key=lambda group: -len(group.ids))[:MAX_GROUPS]
        for one, other in combinations(groups, 2):
            shared = len(one.ids & other.ids)
            if shared and (best is None or shared > best[0]):
                image, label = sorted((one, other), key=lambda group: group.looks_like_labels)
                best = (shared, image, label)
    return best and (best[1], best[2])


def _groups(names: list[str], depth: int) -> list[_Group]:
    """The names in groups of one folder, `depth` levels down, and one extension."""
    stems: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        parts = name.split("/", depth)
        if len(parts) <= depth:
            continue
        stem, extension = os.path.splitext(parts[-1])  # noqa: PTH122 - a key in a bucket is no path
        stems["/".join([*parts[:-1], ""]), extension].append(stem)
    groups = []
    for (folder, extension), members in stems.items():
        groups.append(_Group(f"{folder}{{id}}{extension}", frozenset(members)))
        if tail := _common_tail(members):
            shortened = frozenset(member.removesuffix(tail) for member in members)
            groups.append(_Group(f"{folder}{{id}}{tail}{extension}", shortened))
    return groups


def _common_tail(stems: list[str]) -> str:
    """What all stems end in, from a separator on: ``_mask``, ``-gt``; empty where there is none."""
    if len(stems) < 2:
        return ""
    # the first and the last in order differ soonest: what these two share, all of them share
    backwards = sorted(stem[::-1] for stem in stems)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(backwards[0], backwards[-1], strict=False)))
    found = re.search(r"[_.\-/][A-Za-z][\w.\-]*$", backwards[0][:shared][::-1])
    return found[0] if found and all(len(stem) > len(found[0]) for stem in stems) else ""
