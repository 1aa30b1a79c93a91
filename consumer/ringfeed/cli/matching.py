"""Rings by a part of their names: ``opx`` for ``opx-train``. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ringfeed.errors import RingfeedError


class AmbiguousRingError(RingfeedError):
    """A part of a name fits several rings."""


def matching_ring(word: str, rings: Iterable[str]) -> str:
    """Return the ring that a word names.

    It is the ring of that name, or ``WORD-train``, or the only one that begins with the word, or the only one that
    has it as a part. A word that fits none is returned as it is.

    Raises:
        AmbiguousRingError: it fits several.
    """
    rings = sorted(rings)
    for exact in (word, f"{word}-train"):
        if exact in rings:
            return exact
    for fitting in ([ring for ring in rings if ring.startswith(word)], [ring for ring in rings if word in ring]):
        if len(fitting) > 1:
            listed = f"{', '.join(fitting[:-1])} and {fitting[-1]}"
            raise AmbiguousRingError(f"{word!r} fits the rings {listed}; give more of the name.")
        if fitting:
            return fitting[0]
    return word


def matching_rings(words: Iterable[str], rings: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the rings that words name, each once, and a sentence for each word that fits several."""
    rings = list(rings)
    found: dict[str, None] = {}
    ambiguous = []
    for word in words:
        try:
            found[matching_ring(word, rings)] = None
        except AmbiguousRingError as error:
            ambiguous.append(str(error))
    return list(found), ambiguous
