"""The forms of objects' names: which of them differ by nothing but an id. Pure."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final
from zlib import crc32

DECODABLE: Final = frozenset({".jpg", ".png"})
"""By extension; a file of these that holds something else fails with a reason of its own."""

MAX_DEPTH: Final = 6
MAX_AFFIXES: Final = 12
"""Heads and tails that are told apart in one folder."""

SAMPLED_STEMS: Final = 5000
"""Names of a folder, about, by which heads and tails are found: names of many parts have many tails."""

MAX_FORMS: Final = 80
SAMPLED_IDS: Final = 2000
"""About the number of ids of the largest form: enough to compare forms."""

_SAME_KIND: Final = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
_TAIL: Final = re.compile(r"(?=([_.\-][A-Za-z].*)$)")
_HEAD: Final = re.compile(r"[A-Za-z]+(?:[_.\-]|(?=\d))")
_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_LABEL_WORDS: Final = re.compile(
    r"label|lbl|mask|annot|seg|target|gt|ground|truth|instance|panoptic|semantic|class|stuff|thing|matte|trimap|depth"
    r"|dispar"
)
_IMAGE_WORDS: Final = re.compile(r"image|img|photo|jpe?g|rgb|input|frame|picture|raw$|stills|scene")
_OF_CLASSES: Final = re.compile(r"label|mask|class|seg|semantic|annot")
_OF_MORE: Final = re.compile(r"instance|object|panoptic|color|colour|depth|dispar|trimap|vis")


@dataclass(eq=False)
class Form:
    """Objects whose names differ by an id.

    Attributes:
        folder: what all names begin with, ``""`` or with a slash at its end.
        head, tail: what stands before and behind the id in the last part of the name.
        extension: in lower case, one for all spellings of a kind.
        ids: what stands in place of ``{id}``.
        spelled: the extensions as they are spelled, counted.
    """

    folder: str
    head: str
    tail: str
    extension: str
    ids: set[str] = field(default_factory=set)
    spelled: Counter[str] = field(default_factory=Counter)

    @property
    def template(self) -> str:
        """The key template that matches these objects."""
        spelled = [one for one, _ in self.spelled.most_common()]
        if len(spelled) > 1:
            spelled = list(dict.fromkeys(one.lower() for one in spelled))
        extension = ",".join([spelled[0], *(one.removeprefix(".") for one in spelled[1:])])
        return f"{self.folder}{self.head}{{id}}{self.tail}{extension}"

    @property
    def decodable(self) -> bool:
        """Whether files of this extension can be decoded."""
        return self.extension in DECODABLE

    @cached_property
    def label_score(self) -> int:
        """The greater, the more it looks like labels; to tell the two sides of a pair apart.

        Words decide first, then the format, then whether something is added to the bare id: ``a.png``, ``a_L.png``.
        """
        of_image = any(_IMAGE_WORDS.match(word) for word in self._words)
        return 4 * self.names_labels - 4 * of_image + 2 * (self.extension != ".jpg") + bool(self.head or self.tail)

    @cached_property
    def names_labels(self) -> bool:
        """Whether a word in its names says that it is labels."""
        return any(_LABEL_WORDS.match(word) for word in self._words)

    @cached_property
    def class_score(self) -> int:
        """The greater, the more it looks like class ids, and not like instances, depths or colours."""
        words = self._words
        return sum(map(bool, map(_OF_CLASSES.match, words))) - 2 * sum(map(bool, map(_OF_MORE.match, words)))

    @cached_property
    def folders(self) -> list[str]:
        """The folders that all names begin with."""
        return self.folder.split("/")[:-1]

    @property
    def _words(self) -> list[str]:
        return [word.lower() for word in _WORD.findall(f"{self.folder}{self.head} {self.tail}")]

    def __str__(self) -> str:
        return f"{len(self.ids):,} like `{self.template.replace('{id}', '*')}`"


def forms_of(names: list[str]) -> list[Form]:
    """Return the forms of these names, the largest first, at most `MAX_FORMS`; a name may have several."""
    places: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in names:
        folder, _, last = name.rpartition("/")
        stem, spelled = os.path.splitext(last)  # noqa: PTH122 - a key in a bucket is not a path
        extension = spelled.lower()
        places[folder, _SAME_KIND.get(extension, extension)].append((stem, spelled))
    forms: dict[tuple[str, str, str, str], Form] = {}
    for (folder, extension), members in places.items():
        parts = folder.split("/") if folder else []
        affixes = _affixes([stem for stem, _ in members])
        for depth in range(min(len(parts), MAX_DEPTH) + 1):
            top = "".join(f"{part}/" for part in parts[:depth])
            below = "".join(f"{part}/" for part in parts[depth:])
            for head, tail in affixes:
                if head and below:  # the id begins with a folder then
                    continue
                form = forms.setdefault((top, head, tail, extension), Form(top, head, tail, extension))
                for stem, spelled in members:
                    if len(stem) > len(head) + len(tail) and stem.startswith(head) and stem.endswith(tail):
                        form.ids.add(f"{below}{stem[len(head) : len(stem) - len(tail)]}")
                        form.spelled[spelled] += 1
    return sorted(forms.values(), key=lambda form: -len(form.ids))[:MAX_FORMS]


def _affixes(stems: list[str]) -> list[tuple[str, str]]:
    """Heads and tails that several of the stems share; ``("", "")`` is always one of them."""
    if len(stems) == 1:
        return [("", "")]
    stems = stems[:: max(1, len(stems) // SAMPLED_STEMS)]
    heads = Counter(found[0] for stem in stems if (found := _HEAD.match(stem)))
    tails = Counter(tail for stem in stems for tail in _TAIL.findall(stem))
    least = max(2, len(stems) // 20)
    return [
        ("", ""),
        *(("", tail) for tail, count in tails.most_common(MAX_AFFIXES) if count >= least),
        *((head, "") for head, count in heads.most_common(MAX_AFFIXES) if count >= least),
    ]


class Likeness:
    """How many ids forms share, estimated by a sample of the ids where there are many."""

    def __init__(self, forms: list[Form]) -> None:
        self._step = max(1, max((len(form.ids) for form in forms), default=1) // SAMPLED_IDS)
        self._sampled = {form: self._sample(form) for form in forms}

    def shared(self, one: Form, other: Form) -> int:
        """Return about how many ids both have."""
        return len(self._sampled[one] & self._sampled[other]) * self._step

    def _sample(self, form: Form) -> set[str]:
        if self._step == 1:
            return form.ids
        return {one for one in form.ids if crc32(one.encode(errors="replace")) % self._step == 0}
