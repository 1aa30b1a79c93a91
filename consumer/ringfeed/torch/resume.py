"""A dataset's resume point: where it stands while no reader of it tells, and what a state says of it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ringfeed.reader.state import ResumeState
from ringfeed.torch.beginning import Beginning, Place

_ENDED: Final = "ended"
"""In a state of a DataLoader's worker: whether it has yielded the last batch of its pass.

torchdata's loader makes the workers of an iteration that had ended go on, finds out that it had, and starts others.
"""


class ResumePoint:
    """Follows a dataset through readers that come and go; its states survive them.

    Attributes:
        beginning: where the next reader begins.
    """

    def __init__(self, start: str | Place) -> None:
        """Begin where the dataset was made to."""
        self.beginning = Beginning(start)
        self._stood: dict[str, Any] | None = None  # when it was closed, or sent here
        self._read_by_workers = False  # of a loader that is not told where they stand
        self._pass_epoch: int | None = None  # of a worker's latest pass
        self._loaded_ended = False

    def __repr__(self) -> str:
        place = "unknown" if self._stood is None else f"epoch {self._stood['epoch']}, {self._stood['position']}"
        return f"ResumePoint(stood at {place}{', read by workers' if self._read_by_workers else ''})"

    # What happens to the dataset.

    def load(self, state: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
        """Go on where a state stands; return it as a reader loads it.

        Raises:
            StateMismatchError: the state is not a state.
        """
        loaded = ResumeState.from_dict(state).to_dict()
        self._loaded_ended = bool(state.get(_ENDED))
        self.beginning.load(loaded, strict=strict)
        self._read_by_workers = False
        return loaded

    def choose_epoch(self, epoch: int) -> int:
        """Go on with an epoch; return it as an int.

        Raises:
            ValueError: it is not a whole number from 0 on.
        """
        chosen = self.beginning.choose_epoch(epoch)
        self._read_by_workers = False
        return chosen

    def attached(self) -> None:
        """Take note of a new reader, which knows where it stands."""
        self._stood = None

    def detached(self, state: Mapping[str, Any]) -> None:
        """Take note that the reader was closed in this state."""
        self._stood = dict(state)

    def sent(self, reader_state: Mapping[str, Any] | None) -> ResumePoint:
        """Return what another process is sent: the same, without a reader that stands in ``reader_state``."""
        copy = ResumePoint.__new__(ResumePoint)
        copy.__dict__.update(self.__dict__)
        if reader_state is not None:
            copy.detached(reader_state)
        return copy

    def left_to_workers(self) -> None:
        """Take note that workers begin which will not tell where they stand."""
        self._read_by_workers = True

    def go_on_in_workers(self, *, has_read: bool, looked_at: Mapping[str, Any] | None) -> None:
        """Let workers begin in the place of a reader that was closed, unless a place was chosen.

        Args:
            has_read: that reader has read, so they begin the epoch after its own.
            looked_at: the state of an epoch of which it took a look, so they begin there.
        """
        if self.beginning.chosen:
            return
        if looked_at is not None:
            self.beginning.load(looked_at)
            self.beginning.goes_on = True
        elif has_read and self._stood is not None:
            self.beginning.go_on_from(self._stood)

    def begin_pass(self, epoch: int) -> bool:
        """Take note of a worker's new pass; return True if the loaded state says that it has ended already."""
        ended, self._loaded_ended = self._loaded_ended, False
        # the workers that follow, which are given no state, take the places that are kept
        self._pass_epoch = -1 if ended else epoch
        return ended

    # What it says.

    def tells(self, *, reader_is_closed: bool) -> bool:
        """Return True if a reader's state holds, rather than what was chosen since it was closed."""
        return not (reader_is_closed and self.beginning.chosen)

    def of_reader(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a reader's state, in a worker with what its loader asks for."""
        return state if self._pass_epoch is None else {**state, _ENDED: state["epoch"] > self._pass_epoch}

    def without_reader(self) -> dict[str, Any] | None:
        """Return where the dataset stands that has no reader; None where it will begin, see `beginning`.

        Raises:
            RuntimeError: workers have read that did not tell.
        """
        if self.beginning.chosen:
            return None
        if self._stood is not None:
            return dict(self._stood)
        if self._read_by_workers:
            raise RuntimeError(
                "Workers of a DataLoader have read from this dataset, and it does not know where they stand. Use "
                "ringfeed.torch.RingLoader or torchdata's StatefulDataLoader, and ask the loader for its state."
            )
        return None
