"""Previous daemons' readers: where they stood when their daemon went, read off the words that it left behind.

A daemon that was killed leaves its control segment, and its consumers, who wait for the next one, still hold their
lanes there. So the next one knows whom to expect and from where, before any of them has come back. It keeps that
segment for as long as some have not: it may be killed itself meanwhile, and then the one after it must find them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from ringfeed.errors import RingfeedError
from ringfeed.shm import layout, segment
from ringfeed.shm.control import Control
from ringfeed.shm.descriptor import MOST_BYTES, Descriptor
from ringfeed.shm.lane import Accepted, Request
from ringfeed.shm.layout import MAX_SEQ, Lane, State
from ringfeedd.recovery.cleanup import by_generation
from ringfeedd.ring.group import PredecessorPlace


@dataclass(frozen=True)
class Predecessor:
    """What a daemon of a ring left that is no more.

    Attributes:
        control: its control segment.
        places: of its consumers that live and have not gone on with a later daemon.
    """

    control: Control
    places: list[PredecessorPlace]

    @property
    def descriptor(self) -> Descriptor:
        """How it described the ring."""
        return self.control.descriptor

    @property
    def lives(self) -> bool:
        """Whether any of its consumers still lives, and has not gone on."""
        return any(place.lives() for place in self.places)

    def serves_the_same(self, descriptor: Descriptor) -> bool:
        """Whether its consumers' places mean the same in another generation's stream.

        As far as they can read with what is left of their own ring, that is: of what follows they are told again.
        """
        first = min(place.at for place in self.places)[0]
        reached, position = max(place.reaches for place in self.places)
        last = reached - (position == 0)
        changes = (catalog.since_epoch for d in (self.descriptor, descriptor) for catalog in d.catalogs)
        epochs = [first, *(epoch for epoch in changes if first < epoch <= last)]
        ours, theirs = (
            (d.identity, [d.catalog(epoch).fingerprint for epoch in epochs]) for d in (self.descriptor, descriptor)
        )
        return ours == theirs

    def keep(self) -> None:
        """Let later daemons find it, too: its descriptor gets a name of its own."""
        kept = segment.shm_path(layout.former_name(self.descriptor.ring, self.descriptor.generation))
        if kept.exists() or not segment.shm_path(self.descriptor.control).exists():
            return  # handed over by the service manager, which would do so again
        with contextlib.suppress(FileNotFoundError):
            segment.shm_path(layout.descriptor_name(self.descriptor.ring)).rename(kept)

    def forget(self) -> None:
        """Remove what is left of it."""
        descriptor = self.descriptor
        # the control segment last: without it, no process can tell whose the other file is
        for name in (layout.former_name(descriptor.ring, descriptor.generation), descriptor.control):
            segment.shm_path(name).unlink(missing_ok=True)
        self.control.close()


def read_predecessors(ring: str, handed_over: Iterable[Control] = ()) -> list[Predecessor]:
    """Look for the consumers of all previous daemons of a ring; to be called before its files are cleared.

    Args:
        handed_over: control segments that a previous daemon gave into the service manager's keeping at its clean stop.

    Returns:
        The daemons of which some consumers are still to come, the latest first. A rank stands in one of them only.
    """
    controls = [control for control in handed_over if control.descriptor.ring == ring]
    controls += (control for descriptor in _descriptors(ring) if (control := _open(descriptor)) is not None)
    controls.sort(key=lambda control: control.word(State.STARTED_NS), reverse=True)
    seen: set[tuple[str, int, int]] = set()
    predecessors = []
    for control in controls:
        places = [place for lane in range(control.geometry.lanes) if (place := _former_place(control, lane))]
        places = [place for place in places if _whose(place.request) not in seen]
        seen |= {_whose(place.request) for place in places}
        if places:
            predecessors.append(Predecessor(control, places))
        else:
            control.close()
    return predecessors


def _whose(request: Request) -> tuple[str, int, int]:
    return request.group, request.kin.run, request.rank


def _descriptors(ring: str) -> Iterable[Descriptor]:
    kept = (layout.former_name(ring, generation) for generation in by_generation(ring, segment.names()))
    for name in (layout.descriptor_name(ring), *kept):
        with contextlib.suppress(RingfeedError, OSError):
            # a member of our group could have made these as well, and no place is kept for a process that it names
            yield Descriptor.from_json(ring, segment.read_whole(name, MOST_BYTES, own=True))


def _open(descriptor: Descriptor) -> Control | None:
    with contextlib.suppress(RingfeedError, OSError):
        return Control(descriptor, segment.open_existing(descriptor.control, writable=True, own=True))
    return None


def _former_place(control: Control, lane: int) -> PredecessorPlace | None:
    if not control.lane_lives(lane):
        return None
    page = control.lane(lane)
    request, answer = page.read_request(), page.read_answer(page[Lane.NONCE])
    taken = page[Lane.TAKEN]
    if not isinstance(request, Request) or not isinstance(answer, Accepted) or taken >= MAX_SEQ:
        return None
    epochs = control.descriptor.epochs
    began = answer.counted(epochs, control.descriptor.base)
    if not request.sensible or began is None:
        return None  # they were when it was accepted: a process writes what it should not
    plan = request.plan(epochs)
    place, reached = (plan.skip_to(began, seq) for seq in (taken, max(taken, control.published)))
    lives = partial(control.lane_lives, lane)
    return PredecessorPlace(request, (place.epoch, place.position), (reached.epoch, reached.position), lives)
