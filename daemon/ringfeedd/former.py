"""The former daemon's readers: where they stood when it died, read off the words that it left behind.

A daemon that was killed leaves its control segment, and its consumers, who wait for the next one, still hold their
lanes there. So the next one knows whom to expect and from where, before any of them has come back.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

from ringfeed.attachment import Control
from ringfeed.descriptor import Descriptor, read_descriptor
from ringfeed.errors import RingfeedError
from ringfeed.lane import Accepted, Request
from ringfeed.layout import MAX_SEQ, Lane
from ringfeedd.groups import FormerPlace


@dataclass(frozen=True)
class Former:
    """What a dead daemon of a ring left.

    Attributes:
        descriptor: how it described the ring.
        places: of its consumers that live.
    """

    descriptor: Descriptor
    places: list[FormerPlace]

    def serves_the_same(self, descriptor: Descriptor) -> bool:
        """Whether a place in its stream means the same in another generation's."""
        epoch = min(place.at for place in self.places)[0]
        ours, theirs = (
            (d.order, d.seed, d.num_nodes, d.node_rank, d.catalog(epoch).fingerprint, d.epochs.since(epoch))
            for d in (self.descriptor, descriptor)
        )
        return ours == theirs


def read_former(ring: str) -> Former | None:
    """Look for a dead daemon's consumers; to be called before its files are cleared. None where there are none."""
    with contextlib.suppress(RingfeedError, OSError):
        control = Control(read_descriptor(ring))
        places = [place for lane in range(control.geometry.lanes) if (place := _former_place(control, lane))]
        if places:
            return Former(control.descriptor, places)
        control.close()
    return None


def _former_place(control: Control, lane: int) -> FormerPlace | None:
    if not control.lane_lives(lane):
        return None
    page = control.lane(lane)
    request, answer = page.read_request(), page.read_answer(page[Lane.NONCE])
    taken = page[Lane.TAKEN]
    if not isinstance(request, Request) or not isinstance(answer, Accepted) or taken >= MAX_SEQ:
        return None
    place = request.plan(control.descriptor.epochs).skip_to(answer.place, taken)
    return FormerPlace(request, (place.epoch, place.position), partial(control.lane_lives, lane))
