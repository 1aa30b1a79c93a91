"""The list of a ring's failed pairs, as the daemon leaves it in ``/dev/shm/ringfeed.RING.errors`` for other processes.

One JSON object, replaced as a whole. It outlives a ring that was stopped for its failures, because that is when it is
read; a clean stop removes it, and so does the next daemon's start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ringfeed.errors import NotTrustedError, RingfeedError
from ringfeed.shm import access as trust
from ringfeed.shm import layout, segment

MOST_BYTES = 1 << 24
"""More than the list of all pairs that a daemon keeps can have."""


@dataclass(frozen=True, slots=True)
class FailedPair:
    """One pair that failed to load.

    Attributes:
        reason: a sentence, one line.
        cause: a short word for counting, e.g. ``"missing"``.
        attempts: how many times it was tried when it was drawn last.
        times: how often it was drawn and failed.
        first_unix_s, last_unix_s: the wall clock when it failed first and last; for people, nothing rests on it.
    """

    pair_id: str
    reason: str
    cause: str
    attempts: int
    times: int
    first_unix_s: float
    last_unix_s: float


@dataclass(frozen=True, slots=True)
class FailedPairs:
    """The failed pairs of one ring.

    Attributes:
        generation: of the daemon that wrote it.
        stopped: the sentence with which the ring was stopped for good; empty while it serves.
        failed_draws: draws that failed since the daemon's start, each time counted.
        causes: the same by cause.
        pairs: those that failed latest, the latest last; no more than the daemon keeps.
    """

    ring: str
    generation: str
    stopped: str
    failed_draws: int
    causes: dict[str, int]
    pairs: list[FailedPair]

    @classmethod
    def none(cls, ring: str, generation: str) -> FailedPairs:
        """Return the list of a ring of which no pair has failed."""
        return cls(ring, generation, "", 0, {}, [])

    @property
    def why_not_served(self) -> str:
        """Why no daemon serves the ring, whose last one stopped it."""
        return (
            f"No daemon serves the ring {self.ring!r}, since its last one stopped it: {self.stopped}. `ringfeed errors "
            f"{self.ring}` lists the pairs; start the daemon again when they are fixed."
        )

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    def to_json(self) -> bytes:
        """The list as one line of JSON."""
        return json.dumps(self.as_json(), sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, ring: str, text: bytes) -> FailedPairs:
        """Read a list.

        Raises:
            NotTrustedError: it is not one, or another ring's.
        """
        path = segment.shm_path(layout.errors_name(ring))
        try:
            facts: dict[str, Any] = json.loads(text)
            facts["pairs"] = [FailedPair(**pair) for pair in facts["pairs"]]
            listed = cls(**facts)
            _check_types(listed)
            for pair in listed.pairs:
                _check_types(pair)
            if not all(type(count) is int for count in listed.causes.values()):
                raise TypeError("causes are not counts")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise NotTrustedError(
                f"{trust.describe(path)} is not a list of failed pairs ({error}); install the same release of ringfeed "
                f"here and in the daemon, or remove the file if no daemon runs"
            ) from error
        if listed.ring != ring:
            raise NotTrustedError(f"{trust.describe(path)} lists the pairs of another ring, {listed.ring!r}; remove it")
        return listed


_KINDS = {"str": str, "int": int, "float": (float, int), "dict[str, int]": dict, "list[FailedPair]": list}


def _check_types(facts: FailedPair | FailedPairs) -> None:
    for field in dataclasses.fields(facts):
        kind: Any = _KINDS[str(field.type)]
        if not isinstance(getattr(facts, field.name), kind):
            raise TypeError(f"{field.name} is of another type")


def read_failed_pairs(ring: str) -> FailedPairs | None:
    """The list of a ring's failed pairs; None where its daemon has left none, since no pair failed or none runs.

    Raises:
        NotTrustedError: the file is not a daemon's, or not for this user.
    """
    try:
        text = segment.read_whole(layout.errors_name(ring), MOST_BYTES)
    except FileNotFoundError:
        return None
    return FailedPairs.from_json(ring, text)


def rings_with_lists() -> list[str]:
    """The names of all rings with such a list on this machine, sorted; their daemons may be gone.

    Raises:
        NotTrustedError: /dev/shm cannot be listed.
    """
    pattern = re.compile(rf"{re.escape(layout.PREFIX)}({layout.RING_NAME_PATTERN})\.errors")
    return [match[1] for name in segment.names() if (match := pattern.fullmatch(name))]


def lists_of_stopped() -> Iterator[FailedPairs]:
    """The lists of all rings on this machine whose last daemon stopped them; what cannot be read is left out.

    Raises:
        NotTrustedError: /dev/shm cannot be listed.
    """
    for name in rings_with_lists():
        listed = None
        with contextlib.suppress(RingfeedError, OSError):
            listed = read_failed_pairs(name)
        if listed is not None and listed.stopped:
            yield listed
