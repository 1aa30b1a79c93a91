"""The resume state: where a group stands in the order, as a small plain dict that goes into a checkpoint. Pure.

The order is a pure function of (ids of the split, seed, epoch, position), so nothing else is needed to go on at exactly
the next pair: not the number of ranks, not the batch size, not what was prefetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ringfeed.errors import StateMismatchError
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.layout import MAX_UINT64

STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ResumeState:
    """Where a group stands.

    Attributes:
        split: ``"train"`` or ``"test"``.
        fingerprint: of the split's ids in order, 32 hexadecimal digits.
        order, seed: as the daemon is configured.
        epoch: counts from 0.
        position: pairs of the epoch that its ranks have taken out, all nodes together.
        world_size, batch_size, drop_last: of the job that made it, for people; a job may go on with others.
    """

    split: str
    fingerprint: str
    order: str
    seed: int
    epoch: int
    position: int
    world_size: int
    batch_size: int
    drop_last: bool
    version: int = STATE_VERSION

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of strings, ints and bools; the same on every rank."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Any) -> ResumeState:  # noqa: ANN401  # a user's, out of some file
        """Read a state, also one whose numbers have become NumPy's or one-element tensors in a checkpoint.

        Raises:
            StateMismatchError: it is not a state, or one of another version.
        """
        if not isinstance(state, Mapping):
            raise StateMismatchError(
                f"A resume state is the dict that state_dict() returned, and this is of type {type(state).__name__}: "
                f"take the state out of the checkpoint that holds it."
            )
        known = {field.name: field.type for field in fields(cls)}
        values = {name: _plain(state.get(name)) for name in known}
        if values["version"] != STATE_VERSION:
            raise StateMismatchError(
                f"This is not a resume state of version {STATE_VERSION} (its version is {values['version']!r}): give "
                f"what state_dict() returned."
            )
        types = {"str": str, "int": int, "bool": bool}
        for name, kind in known.items():
            if type(values[name]) is not types[str(kind)]:
                raise StateMismatchError(f"The resume state's {name!r} is {values[name]!r}, not of type {kind}.")
        loaded = cls(**values)
        if not (0 <= loaded.epoch <= MAX_UINT64 and 0 <= loaded.position <= MAX_UINT64):
            raise StateMismatchError(f"The resume state names epoch {loaded.epoch}, position {loaded.position}.")
        return loaded

    def differences(self, descriptor: Descriptor) -> list[str]:
        """In what a ring is not the one that this state is of; empty when it is."""
        ours = (self.split, self.fingerprint, self.order, self.seed)
        fingerprint = descriptor.catalog(self.epoch).fingerprint
        if self.epoch and not self.position and self.fingerprint == descriptor.catalog(self.epoch - 1).fingerprint:
            fingerprint = self.fingerprint  # nothing of this epoch was taken: it may well be a later catalog's first
        theirs = (descriptor.split, fingerprint, descriptor.identity.order, descriptor.identity.seed)
        names = ("split", "ids (fingerprint)", "order", "seed")
        return [
            self._difference(name, mine, its)
            for name, mine, its in zip(names, ours, theirs, strict=True)
            if mine != its
        ]

    def place(self, descriptor: Descriptor, *, strict: bool) -> tuple[int, int]:
        """The (epoch, position) of one machine's ring at which to go on.

        Args:
            strict: insist on the very order that the state is of. Otherwise the same epoch and position are taken in
                the ring's order, whatever that is; a position beyond its end is the next epoch's start.

        Raises:
            StateMismatchError: the ring's order is another one.
        """
        if strict and (differences := self.differences(descriptor)):
            raise StateMismatchError(self._refusal(descriptor.ring, "; ".join(differences)))
        position = -(-self.position // descriptor.identity.num_nodes)
        length = descriptor.catalog(self.epoch).epoch_length
        return (self.epoch, position) if position < length else (self.epoch + 1, 0)

    def _difference(self, name: str, mine: object, its: object) -> str:
        return f"{name}: {mine} in the state, {its} in the ring"

    def _refusal(self, ring: str, differences: str) -> str:
        return (
            f"The resume state is not of the ring {ring!r}: {differences}. Serve what it was made with, or pass "
            f"strict=False to go on at the same epoch and position of the new order."
        )


@dataclass(frozen=True, slots=True)
class Standing(ResumeState):
    """Where a living reader stands, whose daemon was restarted: it was given no state, and is not told of one."""

    @classmethod
    def of(cls, state: ResumeState) -> Standing:
        """Take over the state that it would give."""
        return cls(**asdict(state))

    def _difference(self, name: str, mine: object, its: object) -> str:
        return f"{name}: {mine} before, {its} now"

    def _refusal(self, ring: str, differences: str) -> str:
        return (
            f"The daemon of ring {ring!r} came back with another order ({differences}); restart it as it was, or the "
            f"trainers from their checkpoint."
        )


def _plain(value: Any) -> Any:  # noqa: ANN401  # whatever stands in a checkpoint
    """Return the Python value of a NumPy scalar or of an array or a tensor of one element; else the value itself."""
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    except (TypeError, ValueError, RuntimeError):  # more elements than one
        return value


def state_at(descriptor: Descriptor, *, epoch: int, position: int, shape: tuple[int, int, bool]) -> ResumeState:
    """The state of a group that stands at a place of a ring.

    Args:
        position: of this machine's ring, in pairs.
        shape: world size, batch size and drop_last of the group.
    """
    world_size, batch_size, drop_last = shape
    return ResumeState(
        split=descriptor.split,
        fingerprint=descriptor.catalog(epoch).fingerprint,
        order=descriptor.identity.order,
        seed=descriptor.identity.seed,
        epoch=epoch,
        position=position * descriptor.identity.num_nodes,
        world_size=world_size,
        batch_size=batch_size,
        drop_last=drop_last,
    )


def following_epoch(state: Mapping[str, Any]) -> int:
    """The epoch of the iteration after the one that ended, or was broken off, in ``state``."""
    return int(state["epoch"]) + int(state["position"] > 0)
