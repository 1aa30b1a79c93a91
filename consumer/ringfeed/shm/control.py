"""The control segment as a consumer sees it: read-only, with the kernel's word on whether the daemon lives."""

from __future__ import annotations

import os
import time

import numpy as np
import numpy.typing as npt

from ringfeed.errors import DaemonGoneError, DaemonNotRunningError, NotTrustedError, RingFailedError
from ringfeed.shm import access as trust
from ringfeed.shm import layout, segment
from ringfeed.shm.descriptor import Descriptor, read_descriptor
from ringfeed.shm.lane import Accepted, LanePage, Request
from ringfeed.shm.layout import (
    DAEMON_LOCK_BYTE,
    FIRST_LANE_LOCK_BYTE,
    PAGE_BYTES,
    Geometry,
    Header,
    Lane,
    RingState,
    SlotRecord,
    State,
)
from ringfeed.shm.progress import Standing


def stopped(ring: str) -> DaemonGoneError:
    """Return the error for a ring whose daemon has ended cleanly."""
    return DaemonGoneError(f"The daemon of ring {ring!r} was stopped; start it again and attach again.")


class Control:
    """The control segment as a consumer sees it: read-only, with the kernel's word on whether the daemon lives."""

    def __init__(self, descriptor: Descriptor, lock_fd: int | None = None, *, lockable: bool = False) -> None:
        """Map it.

        Args:
            lock_fd: an open file description of it without locks, where it has no name any more; becomes this one's.
            lockable: this process is going to lock a lane; without it, it only needs to be able to read.

        Raises:
            FileNotFoundError: this generation is gone already.
            NotTrustedError: the segment is not what the descriptor says.
        """
        self._closed = False
        self.own_lane: int | None = None
        self.descriptor = descriptor
        self.geometry: Geometry = descriptor.geometry
        if lock_fd is None:
            lock_fd = segment.open_existing(descriptor.control, writable=lockable)
        self.lock_fd = lock_fd
        segment.close_in_children(self.lock_fd)
        try:
            if os.fstat(self.lock_fd).st_size != self.geometry.control_bytes:
                raise NotTrustedError(self.distrust("its size differs from the descriptor's"))
            # A mapping holds a duplicate of its descriptor: of one that never carries a lock.
            fd = os.open(f"/proc/self/fd/{self.lock_fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._bytes = segment.map_bytes(fd, 0, self.geometry.control_bytes, writable=False)
            finally:
                os.close(fd)
            self.words = self._bytes.cast("Q")
            expected = {
                Header.MAGIC: layout.MAGIC,
                Header.LAYOUT_VERSION: layout.LAYOUT_VERSION,
                Header.GENERATION: int(descriptor.generation, 16),
                Header.DATA_BYTES: self.geometry.data_bytes,
            }
            if any(self.words[offset >> 3] != value for offset, value in expected.items()):
                raise NotTrustedError(self.distrust("its header differs from the descriptor"))
        except BaseException:
            segment.close_lock(self.lock_fd)
            raise
        slots = self.geometry.slots
        table = np.frombuffer(self._bytes, np.uint64, slots * SlotRecord.WORDS, offset=self.geometry.slot_table_offset)
        self.slot_table: npt.NDArray[np.uint64] = table.reshape(slots, SlotRecord.WORDS)

    def distrust(self, why: str) -> str:
        """The sentence for a segment that is not trusted."""
        file = trust.describe(segment.shm_path(self.descriptor.control))
        return f"{file} is not the control segment of ring {self.descriptor.ring!r}: {why}; restart the daemon"

    def word(self, offset: int) -> int:
        """One of the words of `Header` or `State`."""
        return self.words[offset >> 3]

    def text(self, offset: int, length_offset: int, most: int) -> str:
        """Return one of the texts of `State`, of at most ``most`` bytes."""
        length = min(self.word(length_offset), most)
        return bytes(self._bytes[offset : offset + length]).decode(errors="replace")

    @property
    def published(self) -> int:
        """Pairs below this number are in the ring, or were."""
        return self.words[State.PUBLISHED >> 3]

    def daemon_lives(self) -> bool:
        """Whether the daemon of this generation holds its lock."""
        return segment.is_locked(self.lock_fd, DAEMON_LOCK_BYTE)

    def lane_lives(self, lane: int) -> bool:
        """Whether a consumer holds the lane's lock, of which the kernel says nothing to itself; False once closed."""
        if self._closed:
            return False
        return lane == self.own_lane or segment.is_locked(self.lock_fd, FIRST_LANE_LOCK_BYTE + lane)

    def lane(self, lane: int) -> LanePage:
        """A lane's page, to be read only."""
        offset = self.geometry.lane_offset(lane)
        return LanePage(self._bytes[offset : offset + PAGE_BYTES])

    def standings(self) -> list[Standing]:
        """Where every attached consumer stands at this moment."""
        now_ns, published, found = time.monotonic_ns(), self.published, []
        for number in range(self.geometry.lanes):
            page = self.lane(number)
            nonce = page[Lane.NONCE]
            if nonce and page[Lane.ANSWER_NONCE] == nonce and self.lane_lives(number):
                request = page.read_request()
                if isinstance(request, Request) and isinstance(page.read_answer(nonce), Accepted):
                    epochs, base = self.descriptor.epochs, self.descriptor.base
                    found.append(Standing.read(page, request, epochs, now_ns, published, number, base))
        return found

    def reason(self) -> str:
        """Why the ring stopped, in the daemon's words; empty while it serves."""
        return self.text(State.REASON, State.REASON_LENGTH, layout.REASON_BYTES)

    def refresh_outcome(self) -> str:
        """What came of the latest refresh, in the daemon's words; empty where there was none."""
        return self.text(State.REFRESH, State.REFRESH_LENGTH, layout.REASON_BYTES)

    def gone(self) -> DaemonGoneError | None:
        """The error that tells why no more pairs will come; None while the daemon serves."""
        ring, state = self.descriptor.ring, self.word(State.STATE)
        if state == RingState.FAILED:
            return RingFailedError(f"The ring {ring!r} was stopped by its daemon: {self.reason()}")
        if state == RingState.STOPPING:
            return stopped(ring)
        if not self.daemon_lives():
            return DaemonGoneError(
                f"The daemon of ring {ring!r} (pid {self.descriptor.pid}) died; see its log, start it again, and "
                f"attach again."
            )
        return None

    def slot_id(self, slot: int) -> str:
        """The id of the pair whose pixels lie in ``slot``."""
        offset = self.geometry.id_table_offset + slot * layout.ID_BYTES
        length = min(int(self.slot_table[slot, SlotRecord.ID_LENGTH]), layout.ID_BYTES)
        return bytes(self._bytes[offset : offset + length]).decode(errors="replace")

    def close(self) -> None:
        """Give the locks up; the mapping goes with the last view of it."""
        self._closed = True  # the descriptor's number may soon be another file's
        segment.close_lock(self.lock_fd)


def open_control(ring: str, *, lockable: bool = False) -> Control:
    """Map the control segment of a ring whose daemon lives.

    Args:
        lockable: see `Control`.

    Raises:
        DaemonNotRunningError: no daemon, or a dead one's leavings.
        NotTrustedError: the files are not trusted.
    """
    for _ in range(3):  # a daemon that restarts replaces the descriptor between our two looks
        descriptor = read_descriptor(ring)
        try:
            control = Control(descriptor, lockable=lockable)
        except FileNotFoundError:
            continue
        if control.daemon_lives():
            return control
        control.close()
        if read_descriptor(ring).generation == descriptor.generation:
            break
    raise DaemonNotRunningError(
        f"The daemon of ring {ring!r} is dead and left its files; start it again (it clears them), "
        f"e.g. `systemctl restart ringfeed` or `ringfeed serve {descriptor.identity.root}`."
    )
