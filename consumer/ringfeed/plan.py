"""Which rank reads which blocks: from epoch length, ranks and batch size to the blocks of the stream. Pure.

A group's pass over the stream is a sequence of *rounds*. In a full round each of ``world_size`` ranks reads one block
of ``batch_size`` consecutive pairs, rank r the r-th block. What is left at an epoch's end is dropped, or spread over
the ranks, so that every rank ends the epoch at the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from ringfeed.epochs import Epochs


class Place(NamedTuple):
    """Where a round begins in the stream: the ``position``-th pair of ``epoch`` has number ``seq``.

    A tuple, as `Block` is, since a frozen dataclass takes four times as long to make, and each batch makes one of both.
    """

    seq: int
    epoch: int
    position: int

    def counted_from(self, base: Place) -> Place:
        """Return where to count on from by epochs' lengths that hold from ``base`` on.

        That is this place, or the start of the base's epoch where this one lies in an epoch before that.
        """
        if self.seq < base.seq and self.epoch < base.epoch:
            return Place(base.seq - base.position, base.epoch, 0)
        return self


START: Final = Place(0, 0, 0)
"""Where the stream begins."""


class Block(NamedTuple):
    """What one rank reads in one round.

    Attributes:
        seq: number of the block's first pair.
        pairs: in the block, at least 1.
        end: number of the pair after the block's last.
        epoch, position: of the block's first pair.
        repeated: the rank has no pair of its own in this round; its one pair is another rank's.
        next: where the following round begins.
    """

    seq: int
    pairs: int
    end: int
    epoch: int
    position: int
    repeated: bool
    next: Place


@dataclass(frozen=True)
class Plan:
    """The share of one rank.

    Attributes:
        drop_last: drop what is left of an epoch below one full round; else spread it over the ranks.
    """

    epochs: Epochs
    world_size: int
    rank: int
    batch_size: int
    drop_last: bool

    @cached_property
    def round_pairs(self) -> int:
        """Pairs in a full round."""
        return self.world_size * self.batch_size

    @property
    def empty(self) -> bool:
        """Whether some epoch is shorter than one round and all of it would be dropped."""
        return self.drop_last and min(length for _, length in self.epochs.spans) < self.round_pairs

    def epoch_start(self, place: Place) -> Place:
        """The start of the epoch after ``place``'s."""
        return Place(place.seq + self._left(place), place.epoch + 1, 0)

    def at_epoch_end(self, place: Place) -> bool:
        """Whether no round is left of ``place``'s epoch."""
        left = self._left(place)
        return left == 0 or (self.drop_last and left < self.round_pairs)

    def steps_left(self, epoch: int, position: int = 0) -> int:
        """Rounds from ``position`` to the epoch's end."""
        left = self.epochs.length(epoch) - position
        return left // self.round_pairs if self.drop_last else -(-left // self.round_pairs)

    def block(self, place: Place) -> Block:
        """This rank's block in the round at ``place``, or in the next epoch's first where none is left there."""
        round_pairs, left = self.round_pairs, self._left(place)
        if left == 0 or (self.drop_last and left < round_pairs):
            place = self.epoch_start(place)
            left = self._left(place)
        if left >= round_pairs:
            size = round_pairs
            offset, count = self.rank * self.batch_size, self.batch_size
        else:
            size = left
            share, extra = divmod(left, self.world_size)
            offset = self.rank * share + min(self.rank, extra)
            count = share + (self.rank < extra)
        following = Place(place.seq + size, place.epoch, place.position + size)
        if left - size < round_pairs and self.at_epoch_end(following):
            following = self.epoch_start(following)
        repeated = count == 0
        if repeated:
            offset, count = left - 1, 1
        seq = place.seq + offset
        return Block(seq, count, seq + count, place.epoch, place.position + offset, repeated, following)

    def skip_to(self, place: Place, seq: int) -> Place:
        """The first round from ``place`` on whose block for this rank begins at ``seq`` or later.

        In constant time: ``seq`` is what a consumer wrote, or where the ring went while a rank was away.
        """
        # A round that begins a whole round or more before seq cannot hold it: the last such round is computed.
        target = seq - self.round_pairs
        if target > place.seq:
            epoch, position = self.epochs.forward((place.epoch, place.position), target - place.seq)
            if epoch > place.epoch:
                place = Place(target - position, epoch, 0)
            steps_left = self.steps_left(place.epoch, place.position)
            rounds = min((target - place.seq) // self.round_pairs, max(0, steps_left - 1))
            pairs = rounds * self.round_pairs
            place = Place(place.seq + pairs, place.epoch, place.position + pairs)
        while (block := self.block(place)).seq < seq:
            place = block.next
        return place

    def _left(self, place: Place) -> int:
        """Pairs from a place to its epoch's end."""
        return self.epochs.length(place.epoch) - place.position
