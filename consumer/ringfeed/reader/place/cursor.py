"""The cursor: where a reader stands in its group's pass, and where its next iteration begins. Pure."""

from __future__ import annotations

from dataclasses import replace

from ringfeed.plan import Place, Plan


class Cursor:
    """Where one reader stands.

    It moves by whole rounds. The place of the next one is known exactly; where a later epoch begins only the daemon
    knows, since a refresh may be changing the epochs before it.

    Attributes:
        plan: the reader's share of the stream.
        place: the next round.
        block: the reader's block in it.
        iteration: number of the latest iteration; earlier ones are superseded.
        broken_off: the latest iteration has taken something of its epoch, and something is left.
        look: where the latest iteration began, as long as it may be taken back; else None.
        joined: where in the middle of an epoch it joined others; else None.
    """

    def __init__(self, plan: Plan, place: Place, *, may_join_midway: bool) -> None:
        """Stand at a place.

        Args:
            may_join_midway: the place is where others were, not one that was asked for.
        """
        self.iteration = 0
        self.broken_off = False
        self.look: Place | None = None
        self._first = False  # the next block is an iteration's first
        self._next_epoch_chosen = False
        self._ended_epoch: int | None = None
        self.stand(plan, place)
        self._before = place, False, False
        self.joined: Place | None = None
        if may_join_midway:
            self.join()

    def __repr__(self) -> str:
        return f"Cursor(epoch {self.epoch}, position {self.place.position}, iteration {self.iteration})"

    @property
    def epoch(self) -> int:
        """The epoch of the next block."""
        return self.block.epoch

    @property
    def steps(self) -> int:
        """Rounds in the whole of the next block's epoch; of the one that was joined in the middle, those from there."""
        joined = self.joined
        return self.plan.steps_left(self.epoch, joined.position if joined and joined.epoch == self.epoch else 0)

    @property
    def next_steps(self) -> int:
        """Rounds of the epoch that the next iteration gives, if the latest one is left now."""
        following = self._rest_if_left
        return self.steps if following is None else self.plan.steps_left(following.epoch, 0)

    @property
    def next_end(self) -> int:
        """Number of the first pair after the epoch that the next iteration gives, if the latest one is left now."""
        return self.plan.epoch_start(self._rest_if_left or self.look or self.place).seq

    @property
    def _rest_if_left(self) -> Place | None:
        """See `rest_to_skip`; what was only looked at leaves nothing to skip."""
        return None if self.look else self.rest_to_skip

    @property
    def state_place(self) -> Place:
        """Where the group stands, for a state: at the next epoch's start if that was chosen, else at the next round."""
        return self.plan.epoch_start(self.place) if self._next_epoch_chosen else self.place

    # Moves.

    def stand(self, plan: Plan, place: Place) -> None:
        """Stand where a daemon says, by the lengths of its epochs."""
        self.plan, self.place, self.block = plan, place, plan.block(place)

    def join(self, *, broken_off: bool = False) -> None:
        """Take note that the place is where others are, perhaps in the middle of an epoch.

        Args:
            broken_off: the latest iteration has taken something of this epoch.
        """
        self.broken_off = broken_off
        self.joined = self.place if self.block.position >= self.plan.round_pairs else None

    def change(self, plan: Plan) -> None:
        """Go on by other lengths of epochs; those of epochs that have begun are the same."""
        if plan is not self.plan:
            self.stand(plan, self.place)

    def skip(self, place: Place) -> None:
        """Leave out what lies before a place; the next iteration begins there."""
        self.stand(self.plan, place)
        self.broken_off = self._next_epoch_chosen = False

    def pass_over(self, floor: int) -> int:
        """Leave out the blocks that begin below pair ``floor``, within an iteration; return the pairs of the stream.

        An iteration goes on within its epoch. One that ends by this is not broken off by its user.
        """
        before, broken_off = self.place, self.broken_off
        self.skip(self.plan.skip_to(before, floor))
        self.broken_off = broken_off and self.place.epoch == before.epoch
        return self.place.seq - before.seq

    def take(self) -> bool:
        """Take the next block; return whether it is the first of its iteration."""
        block, first = self.block, self._first
        self._before = self.place, self.broken_off, first
        self.place = block.next
        self.block = self.plan.block(block.next)
        self.broken_off = self.block.epoch == block.epoch
        self._first = self._next_epoch_chosen = False
        return first

    def undo(self) -> None:
        """Give back the block that was taken last: its batch was not delivered."""
        place, self.broken_off, self._first = self._before
        self.stand(self.plan, place)

    def lose(self) -> None:
        """Count the block that was taken last as lost: the next one may be the iteration's first."""
        _, _, self._first = self._before
        self.look = None

    def begin_look(self) -> None:
        """Let the block that was taken last be one that may be taken back."""
        self.look, _, _ = self._before

    def take_back(self) -> bool:
        """Return to where the latest iteration began, if that was a look; return whether it was."""
        if self.look is None:
            return False
        self.stand(self.plan, self.look)
        self.look, self.broken_off = None, False
        return True

    # Iterations.

    @property
    def rest_to_skip(self) -> Place | None:
        """Where the next iteration begins, if that is after the rest of an epoch that was broken off; else None."""
        return self.plan.epoch_start(self.place) if self.broken_off else None

    def begin(self) -> tuple[int, int]:
        """Begin an iteration; return its number and the epoch that it gives, which may have ended already."""
        self.iteration += 1
        ended, self._ended_epoch = self._ended_epoch, None
        self._first = True
        return self.iteration, self.epoch if ended is None else ended

    def choose(self, epoch: int) -> tuple[int, int] | None:
        """Let the next iteration be ``epoch``; return the (epoch, position) to go to, None where that is not needed.

        In the middle of that epoch, where a state was loaded, it stays there. Where less than a round is left of it and
        is dropped, the next iteration gives nothing.
        """
        self._ended_epoch = None
        following = self.rest_to_skip or self.place
        if following.epoch == epoch and following.position and self.plan.at_epoch_end(following):
            self.iteration += 1
            self._ended_epoch = epoch
        elif self.plan.block(following).epoch != epoch:
            return epoch, 0
        else:
            self._next_epoch_chosen = self.broken_off  # so that the state says where the next iteration begins
        return None

    def leave_for(self, at: tuple[int, int]) -> Place | None:
        """Supersede all iterations, to go on at (epoch, position).

        Returns:
            The place, if it is this one or the next epoch's start; else None: the daemon has to be asked.
        """
        here = self.place
        self.joined = self._ended_epoch = None
        self._next_epoch_chosen = False
        self.iteration += 1
        if at == (here.epoch, here.position):
            self.broken_off = False
            return here
        return self.plan.epoch_start(here) if at == (here.epoch + 1, 0) else None


class Turn:
    """Ranks that take turns, as a DataLoader's workers do: what they yield one after another is a run of the order."""

    def __init__(self, plan: Plan, ranks: range) -> None:
        self._first, self._last = replace(plan, rank=ranks[0]), replace(plan, rank=ranks[-1])

    def stands_after(self, place: Place) -> Place | None:
        """Return where the order is used up to once these ranks have taken their blocks of a round.

        It may be the middle of the round. None if none of them has a pair of its own there.
        """
        if self._first.block(place).repeated:
            return None
        block = self._last.block(place)
        if self._last.rank < self._last.world_size - 1 and not block.repeated and block.end < block.next.seq:
            return Place(block.end, block.epoch, block.position + block.pairs)
        return block.next
