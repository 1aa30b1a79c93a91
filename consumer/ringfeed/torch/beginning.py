"""Where a dataset's next iteration begins: as the dataset was made to, or, once, somewhere else. No I/O."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from typing import Any

from ringfeed.reader.opening import Following
from ringfeed.reader.state import following_epoch
from ringfeed.shm.layout import MAX_UINT64

Place = tuple[int, int] | Mapping[str, Any]
"""An (epoch, position), or a resume state."""


class Beginning:
    """What one iteration, and the readers that it opens, begin with; the iterations after it go on by themselves.

    Attributes:
        start: what `ringfeed.attach` is given where nothing else was chosen.
        at: a place or a state to begin at once; None where there is none.
        strict: insist on the very order of that state.
        epoch: the epoch that `set_epoch` chose for the next iteration, or None.
        goes_on: the place was reached by reading, so that there was a daemon, which may be restarted just now.
        looked_at: the epoch that was looked at and is to begin again, or None. Where workers kept its place it begins
            there, else with the next epoch that others have not gone beyond.
    """

    def __init__(self, start: str | Place) -> None:
        self.start = start if isinstance(start, str) else "auto"
        self.at: Place | None = None
        self.strict = True
        self.epoch: int | None = None
        self.goes_on = False
        self.looked_at: int | None = None
        self._by = os.getpid()
        if not isinstance(start, str):
            self.load(start)

    def load(self, at: Place, *, strict: bool = True) -> None:
        """Begin at a place or a state, whatever was chosen before."""
        self.at, self.strict, self._by = at, strict, os.getpid()
        self.epoch, self.goes_on, self.looked_at = None, False, None

    def choose_epoch(self, epoch: int) -> int:
        """Begin with an epoch; within it, if a state or a place of it is loaded. Returns the epoch as an int.

        Raises:
            ValueError: it is not an epoch.
        """
        self.epoch = whole_epoch(epoch)
        if self.at is not None and self._place_of(self.at)[0] != self.epoch:
            self.at, self.goes_on = None, False
        return self.epoch

    def repeat(self, state: Mapping[str, Any]) -> None:
        """Let new readers begin with the epoch of which a batch was looked at; ``state`` is the one after that batch.

        A state or a place that is loaded stands, save where it was reached by reading.
        """
        if self.at is None or (self.goes_on and not self._place_of(self.at)[1]):
            self.at, self.goes_on = None, True
            self.looked_at = following_epoch(state) - 1

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Let new readers begin the epoch after the one that ended, or was broken off, in a state.

        They would begin there anyhow, were each of them known to have read of that epoch, and the daemon the same. As
        what goes on, they wait for a daemon that is being restarted, and insist on its order. A state or a place that
        is loaded already, or another epoch that is chosen, stands.
        """
        following = following_epoch(state)
        if self.at is None and self.looked_at is None and self.epoch in (None, following):
            epoch = self.epoch
            self.load({**state, "epoch": following, "position": 0})
            self.epoch, self.goes_on = epoch, True

    def of_reader(self, *, in_worker: bool) -> str | Place | Following:
        """Return what the reader that is opened now starts with.

        Args:
            in_worker: it reads for a DataLoader, which starts new workers for each epoch.
        """
        if self.at is not None:
            return self.at
        if not in_worker:
            return self.start
        return Following(self.looked_at or 0) if self.epoch is None else (self.epoch, 0)

    def forget(self) -> None:
        """What was loaded or chosen was one iteration's, which has begun."""
        self.at = self.epoch = self.looked_at = None
        self.goes_on = False

    @property
    def chosen(self) -> bool:
        """Whether anything was loaded or chosen for the next iteration."""
        return self.at is not None or self.epoch is not None

    def check_is_of_this_process(self) -> None:
        """Refuse a place of another process, by whose loader this worker was started.

        Raises:
            RuntimeError: a place was loaded there.
        """
        if self.at is not None and self._by != os.getpid():
            raise RuntimeError(
                "This dataset was given a state or a place to start at before a DataLoader started its workers, which "
                "would begin there in every epoch. Use ringfeed.torch.RingLoader, or load the state into torchdata's "
                "StatefulDataLoader."
            )

    @staticmethod
    def _place_of(at: Place) -> tuple[int, int]:
        return (int(at["epoch"]), int(at["position"])) if isinstance(at, Mapping) else at


def whole_epoch(epoch: Any) -> int:  # noqa: ANN401  # a user's
    """Return an epoch as an int.

    Raises:
        ValueError: it is not a whole number from 0 on.
    """
    try:
        whole = operator.index(epoch)
    except TypeError:
        whole = -1
    if not 0 <= whole <= MAX_UINT64:
        raise ValueError(f"set_epoch() was given {epoch!r}; an epoch is a whole number from 0 on")
    return whole
