"""The lanes of a ring, where consumers come and go. Reads every lane, tells the groups, and answers requests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ringfeed.shm.lane import Accepted, Refused, Request
from ringfeed.shm.layout import Lane, Leaving
from ringfeedd.ring.admission import Seek, Wait
from ringfeedd.ring.groups import Groups
from ringfeedd.ring.ring import Ring
from ringfeedd.shm.memory import RingMemory

_LOG: Final = logging.getLogger("ringfeedd.ring")

LIVENESS_INTERVAL_S: Final = 0.2
"""How often the kernel is asked whether each attached consumer still lives."""


class LaneManager:
    """The lanes of one ring. `Groups` decides; here the lanes' pages are read and written for it.

    Attributes:
        lane_deaths: consumers that ended without a word.
    """

    def __init__(
        self, ring: Ring, groups: Groups, memory: RingMemory, on_gone: Callable[[int], None] = lambda _lane: None
    ) -> None:
        """Begin with all lanes free.

        Args:
            on_gone: called with the lane of a consumer that has ended, before its words are another's.
        """
        self._on_gone = on_gone
        self._ring, self._groups, self._memory = ring, groups, memory
        self._nonces = [0] * memory.geometry.lanes
        self._pending: dict[int, Request] = {}
        self._refused: set[int] = set()
        self._looked = 0.0
        self._told_of = 0
        self.lane_deaths = 0

    def __repr__(self) -> str:
        return f"LaneManager({self._ring.name!r}, {len(self._pending)} wait for an answer)"

    @property
    def waiting(self) -> list[int]:
        """The lanes whose requests have no answer yet."""
        return list(self._pending)

    def poll(self, now: float) -> bool:
        """Read every lane: progress, departures and deaths, then new requests, which may want a dead one's place.

        Returns:
            Whether the kernel was asked who lives.
        """
        nonces = self._memory.nonces()
        fresh = []
        if nonces != self._nonces:
            fresh = [lane for lane, (now_, known) in enumerate(zip(nonces, self._nonces, strict=True)) if now_ != known]
        look = bool(fresh) or now - self._looked >= LIVENESS_INTERVAL_S
        if look:
            self._looked = now
        for lane in fresh:
            self._forget_former(lane, now)
        for lane in self._groups.lanes():
            self._poll_attached(lane, now, look=look)
        for lane in [*self._pending, *self._refused]:
            if (look or lane in self._refused) and not self._memory.lane_lives(lane):
                self._forget_request(lane)
                self._memory.lanes[lane].free()
        for lane in fresh:
            self._poll_request(lane)
        return look

    def _poll_attached(self, lane: int, now: float, *, look: bool) -> None:
        page = self._memory.lanes[lane]
        leaving = page.leaving
        gone = (look or leaving is not Leaving.NO) and not self._memory.lane_lives(lane)
        # Its words are read after the look: what it wrote before it went counts.
        self._groups.progress(lane, self._ring, taken=page[Lane.TAKEN], released=page[Lane.RELEASED])
        if gone:
            self._note_gone(lane, page.leaving, now)

    def _note_gone(self, lane: int, leaving: Leaving, now: float) -> None:
        who = self._groups.gone(lane, leaving, now)
        self._on_gone(lane)
        if leaving is Leaving.NO:
            self.lane_deaths += 1
            _LOG.warning("ring %s: %s ended without a word; its lane is free again", self._ring.name, who)
        else:
            _LOG.info("ring %s: %s left", self._ring.name, who)
        self._memory.lanes[lane].free()

    def _forget_former(self, lane: int, now: float) -> None:
        """Note that a lane's consumer has ended: another one writes here, and has locked the lane already."""
        self._forget_request(lane)
        if lane in self._groups.lanes():
            self._note_gone(lane, Leaving.NO, now)

    def _forget_request(self, lane: int) -> None:
        request = self._pending.pop(lane, None)
        if request is not None:
            self._groups.withdraw(request)
        self._refused.discard(lane)

    def _poll_request(self, lane: int) -> None:
        page = self._memory.lanes[lane]
        nonce = self._nonces[lane] = page[Lane.NONCE]
        if nonce == 0 or not self._memory.lane_lives(lane):
            return
        request = page.read_request()
        if page[Lane.NONCE] != nonce:
            return  # its writer died meanwhile and another one writes: the next turn sees that one's nonce
        if isinstance(request, Refused):
            self._refuse(lane, request)
        else:
            self._pending[lane] = request

    def answer(self, now: float, now_ns: int, seek: Callable[[int, int], bool]) -> None:
        """Answer the requests that can be answered now.

        Args:
            now_ns: see `tell_absences`.
            seek: goes on from another (epoch, position), where a request wants that and no reader is
                attached; False where it could not.
        """
        while self._answer_each(now, now_ns, seek):
            pass  # the others of a group that has begun join it before any of its ranks can have left

    def _answer_each(self, now: float, now_ns: int, seek: Callable[[int, int], bool]) -> bool:
        """Answer the requests that can be answered; return whether a consumer was accepted while others wait."""
        accepted = False
        for lane, request in list(self._pending.items()):
            answer = self._groups.attach(lane, request, self._ring, now)
            if isinstance(answer, Seek) and seek(answer.epoch, answer.position):
                answer = self._groups.attach(lane, request, self._ring, now)
            if isinstance(answer, Wait):
                page = self._memory.lanes[lane]
                if page.read_reason() != answer.reason:
                    page.write_reason(answer.reason)
            if isinstance(answer, Wait | Seek):
                continue
            del self._pending[lane]
            if isinstance(answer, Refused):
                self._refuse(lane, answer)
            else:
                # Before the answer: it may have read a small epoch before anything more is written.
                absence = next(absence for there, absence in self._groups.absences(now) if there == lane)
                page = self._memory.lanes[lane]
                page.write_absence(absence, now_ns)
                page[Lane.ANSWERED_NS] = now_ns
                self._accept(lane, request, answer)
                accepted = True
        return accepted and bool(self._pending)

    def tell_absences(self, now: float, now_ns: int) -> None:
        """Write on each lane which ranks of its group are away, after a rank has come or gone.

        Args:
            now_ns: the same moment as consumers' clock shows it, which does not stand while the daemon is stopped.
        """
        if self._groups.comings_and_goings == self._told_of:
            return
        self._told_of = self._groups.comings_and_goings
        for lane, absence in self._groups.absences(now):
            self._memory.lanes[lane].write_absence(absence, now_ns)

    def _accept(self, lane: int, request: Request, answer: Accepted) -> None:
        place = answer.place
        _LOG.info(
            "ring %s: rank %d/%d of group %r (pid %d, batch size %d) reads on lane %d from epoch %d, position %d",
            *(self._ring.name, request.rank, request.world_size, request.group, request.pid, request.batch_size, lane),
            *(place.epoch, place.position),
        )
        self._memory.answer(lane, answer, self._nonces[lane])

    def _refuse(self, lane: int, answer: Refused) -> None:
        _LOG.info("ring %s: lane %d is refused: %s", self._ring.name, lane, answer.reason)
        self._refused.add(lane)
        self._memory.answer(lane, answer, self._nonces[lane])
