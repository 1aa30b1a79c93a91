"""The attachment: a consumer's hold on one generation of a ring: the lane's page and lock, data, the two doorbells."""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable
from typing import Final

from ringfeed.errors import (
    AttachRefusedError,
    DaemonGoneError,
    DaemonNotRunningError,
    NotTrustedError,
    OtherVersionError,
    RingfeedError,
)
from ringfeed.log import TELL_AFTER_S, warn
from ringfeed.reader.data import RingData
from ringfeed.reader.state import ResumeState
from ringfeed.shm import layout, segment
from ringfeed.shm.control import Control, open_control, stopped
from ringfeed.shm.descriptor import read_descriptor
from ringfeed.shm.lane import Accepted, LanePage, Refused, Request
from ringfeed.shm.layout import (
    FIRST_LANE_LOCK_BYTE,
    PAGE_BYTES,
    Lane,
    Leaving,
    Start,
    State,
)
from ringfeed.shm.origin import Kin
from ringfeed.shm.semaphore import Doorbell

ANSWER_TIMEOUT_S: Final = 60.0
"""A daemon that lives and does not answer within this is stuck; a seek or a place that is waited for takes seconds."""

FREE_LANE_TIMEOUT_S: Final = 2.0

GIVE_UP_TIMEOUT_S: Final = 1.0
"""How long to wait for the answer of a daemon that is asked to keep no places."""


def restarted(ring: str) -> DaemonGoneError:
    """Return the error for an attachment to the daemon before the present one."""
    return DaemonGoneError(f"The daemon of ring {ring!r} was restarted; attach again.")


class Attachment:
    """One consumer on one lane of a ring, accepted by the daemon."""

    def __init__(
        self,
        ring: str,
        request: Request,
        *,
        state: ResumeState | None = None,
        still_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        """Attach.

        Args:
            state: that the request's place comes from, and that the ring must still be of once it is granted.
            still_wanted: called again and again while the answer is waited for; raises to give up.

        Raises:
            StateMismatchError: it is not, e.g. since a refresh came in between.
            DaemonNotRunningError, DaemonGoneError: there is no daemon, or it went meanwhile.
            AttachRefusedError: the daemon refused, or all lanes are taken.
            NotTrustedError: the ring's files are not a daemon's, or not for this user.
        """
        self.control = open_control(ring, lockable=True)
        self.descriptor = self.control.descriptor
        self.geometry = self.control.geometry
        with contextlib.ExitStack() as undo:
            undo.callback(self.control.close)
            try:
                self.lane = self.control.own_lane = self._claim_lane()
                self._open(undo)
                accepted = self._ask(request, still_wanted)
            except FileNotFoundError as error:
                raise stopped(ring) from error
            undo.pop_all()
        # A reader that is simply forgotten must not keep its lane, nor its place in the ring.
        self._detach = weakref.finalize(
            self, _detach, self.control, self.lane, self.page, self.space, self.bell, os.getpid()
        )
        self._detach.atexit = False  # the reader decides at the interpreter's end whether its place is kept
        self.place = accepted.place
        self._request = request
        self.plan = request.plan(self.descriptor.epochs)
        try:
            self.new_catalogs()  # since the descriptor was read, before the daemon answered
            if not accepted.sensible(self.descriptor.epochs):
                raise NotTrustedError(self.control.distrust(f"invalid answer on lane {self.lane}"))
            if state is not None:
                state.place(self.descriptor, strict=True)
        except BaseException:
            self.detach(Leaving.LEAVE)
            raise

    def _claim_lane(self) -> int:
        deadline = time.monotonic() + FREE_LANE_TIMEOUT_S
        while True:
            for lane in range(self.geometry.lanes):
                # A lane is free once its consumer is gone *and* the daemon has taken note.
                page, byte = self.control.lane(lane), FIRST_LANE_LOCK_BYTE + lane
                if page[Lane.ANSWER_NONCE] == 0 and segment.try_lock(self.control.lock_fd, byte):
                    if page[Lane.ANSWER_NONCE] == 0:
                        return lane
                    # Another consumer came and went between our two steps, and the daemon has not noticed yet.
                    segment.unlock(self.control.lock_fd, byte)
            if time.monotonic() > deadline:
                raise AttachRefusedError(
                    f"All {self.geometry.lanes} lanes of ring {self.descriptor.ring!r} are taken (`ringfeed status` "
                    f"lists who has them); raise `lanes` in the daemon's configuration and restart it."
                )
            time.sleep(0.01)

    def _open(self, undo: contextlib.ExitStack) -> None:
        descriptor = self.descriptor
        ring, generation, geometry = descriptor.ring, descriptor.generation, self.geometry
        fd = segment.open_existing(descriptor.control, writable=True)
        try:
            self.page = LanePage(segment.map_bytes(fd, geometry.lane_offset(self.lane), PAGE_BYTES, writable=True))
        finally:
            os.close(fd)
        self.space = Doorbell.open(layout.space_name(ring, generation))
        undo.callback(self.space.close)
        self.bell = Doorbell.open(layout.lane_bell_name(ring, generation, self.lane))
        undo.callback(self.bell.close)
        self.bell.drain()
        self.data = RingData(descriptor)

    def _ask(self, request: Request, still_wanted: Callable[[], None]) -> Accepted:
        nonce = int.from_bytes(os.urandom(8)) >> 1 | 1  # as `secrets` does, without its imports
        self.page.write_request(request, nonce)
        began = time.monotonic()
        tell_at, give_up_at = began + TELL_AFTER_S, began + ANSWER_TIMEOUT_S
        self.space.ring()
        while (answer := self.page.read_answer(nonce)) is None:
            self.bell.wait()
            still_wanted()
            if gone := self.control.gone():
                try:
                    raise gone
                finally:
                    del gone  # in a cycle with its own frame, it would keep the caller's batches until a collection
            now = time.monotonic()
            if now > give_up_at:
                self._give_up_waiting(request)
            if now > tell_at:
                tell_at = now + ANSWER_TIMEOUT_S
                self._tell_of_waiting(request, now - began)
        if isinstance(answer, Refused):
            raise AttachRefusedError(answer.reason)
        return answer

    def _tell_of_waiting(self, request: Request, waited_s: float) -> None:
        """Say in the trainer's log why an answer takes long."""
        silent_s = self._silent_s()
        why = f"its loop has not turned for {silent_s:.0f} s" if silent_s > TELL_AFTER_S else self.page.read_reason()
        warn(
            "Rank %d/%d of group %r has asked ring %r for a place, and waits for %.0f s now: %s.",
            *(request.rank, request.world_size, request.group, self.descriptor.ring, waited_s),
            why or "the daemon says nothing",
        )

    def _silent_s(self) -> float:
        """For how long the daemon's loop has not turned, in seconds."""
        turned = max(self.control.word(State.HEARTBEAT_NS), self.control.word(State.STARTED_NS))
        return (time.monotonic_ns() - turned) / 1e9

    def _give_up_waiting(self, request: Request) -> None:
        """Raise the error that tells why there is no answer, unless it is worth to wait on."""
        asked = f"The daemon of ring {self.descriptor.ring!r} (pid {self.descriptor.pid})"
        whose = f"rank {request.rank} of group {request.group!r}"
        silent_s = self._silent_s()
        if silent_s > ANSWER_TIMEOUT_S / 2:
            raise DaemonGoneError(
                f"{asked} lives but has not turned its loop for {silent_s:.0f} s; is it stopped (SIGSTOP) or swapping? "
                f"Restart it if it does not recover."
            )
        if not (reason := self.page.read_reason()):
            raise AttachRefusedError(
                f"{asked} has not answered {whose} for {ANSWER_TIMEOUT_S:.0f} s, and does not say why; see its log, "
                f"and restart it if it goes on."
            )
        if not request.wait:
            raise AttachRefusedError(
                f"{asked} has kept {whose} waiting for {ANSWER_TIMEOUT_S:.0f} s: {reason}. Start all ranks from the "
                f"same state once that is over, or pass wait=True."
            )

    @property
    def outdated(self) -> bool:
        """Whether a refresh has changed the catalog since the last look; asked for each batch."""
        return self.control.words[State.CATALOG_CHANGES >> 3] > self.descriptor.catalog_changes

    def new_catalogs(self) -> int:
        """How many refreshes changed the catalog since the last look; ``descriptor`` and ``plan`` are the new ones.

        Raises:
            DaemonGoneError: the descriptor is another daemon's already, or gone.
        """
        if not self.outdated:
            return 0
        known = self.descriptor.catalog_changes
        try:
            descriptor = read_descriptor(self.descriptor.ring)
        except (DaemonNotRunningError, OtherVersionError) as error:
            raise DaemonGoneError(str(error)) from error
        if descriptor.generation != self.descriptor.generation:
            raise restarted(descriptor.ring)
        self.descriptor = self.control.descriptor = descriptor
        self.plan = self._request.plan(descriptor.epochs)
        return descriptor.catalog_changes - known

    def tell_released(self, seq: int) -> None:
        """Say that this consumer reads nothing below ``seq`` any more."""
        self.page[Lane.RELEASED] = seq
        self.space.ring()

    def detach(self, leaving: Leaving) -> None:
        """Give the lane back; no thread may be waiting on it. Views of the data stay readable."""
        if self._detach.alive:
            self.page[Lane.LEAVING] = leaving
            self._detach()


def _detach(control: Control, lane: int, page: LanePage, space: Doorbell, bell: Doorbell, pid: int) -> None:
    if os.getpid() != pid:
        return  # a forked child's copy: the lane is its parent's
    if page.leaving is Leaving.NO:
        page[Lane.LEAVING] = Leaving.LEAVE
    segment.unlock(control.lock_fd, FIRST_LANE_LOCK_BYTE + lane)
    space.ring()
    control.close()
    space.close()
    bell.close()


def give_up_places(ring: str, group: str, owner: int) -> None:
    """Have a daemon keep no places for consumers of a group that have ended, or are about to.

    Does nothing where no daemon serves the ring, or it does not answer soon: then the places lapse after a while.

    Args:
        owner: the training process of these consumers, see `Kin`.
    """
    deadline = time.monotonic() + GIVE_UP_TIMEOUT_S

    def check_time() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError

    kin = Kin(owner=owner)
    request = Request(group, 0, 1, 1, False, Start.GIVE_UP, (0, 0), anonymous=False, pid=os.getpid(), kin=kin)
    with contextlib.suppress(RingfeedError, OSError):
        Attachment(ring, request, still_wanted=check_time)  # it is always refused
