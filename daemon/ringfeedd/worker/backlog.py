"""The pairs that a worker has: which it downloads next, which it decodes or copies next, which wait for room. Pure.

A pair waits to be downloaded, is being downloaded, waits for room in its ring, or waits to be decoded. It leaves with
its answer. Pairs of the memory tier wait for room, and then in runs: what is done for each of them costs as much as a
tenth of the copy.
"""

from __future__ import annotations

from typing import Final

from ringfeedd.errors import BadPairError
from ringfeedd.fetch.download import PairDownload
from ringfeedd.fetch.policy import Fetched
from ringfeedd.worker.protocol import CopyJob, Failed, PairJob
from ringfeedd.worker.turns import PairTurns

COPIED_AT_ONCE: Final = 16
"""Pairs of a run: to copy so many takes about as long as to decode one, so no ring waits longer for its turn."""


class CopyRun:
    """Pairs of one ring that are copied out of the memory tier one after the other.

    Attributes:
        copies: at most `COPIED_AT_ONCE`.
    """

    __slots__ = ("copies", "ring")

    def __init__(self, ring: int, copy: CopyJob) -> None:
        self.ring, self.copies = ring, [copy]

    def __repr__(self) -> str:
        return f"CopyRun(ring {self.ring}, {len(self.copies)} copies)"


class PendingPair:
    """One pair on its way through the worker.

    Attributes:
        download: under way; None while there is none.
        fetched: its bytes; None before they are there.
        from_disk: the bytes came from the disk tier.
        wrong: what the disk tier had was not whole.
        dropped: it was cancelled and answered; the queues pass it by.
        missing: it has to be downloaded.
    """

    __slots__ = ("download", "dropped", "fetched", "from_disk", "job", "missing", "ring", "seq", "wrong")

    def __init__(self, ring: int, job: PairJob) -> None:
        self.ring, self.seq, self.job = ring, job.seq, job
        self.download: PairDownload | None = None
        self.fetched: Fetched | None = None
        self.from_disk = self.wrong = self.dropped = self.missing = False

    def __repr__(self) -> str:
        return f"PendingPair(ring {self.ring}, seq {self.seq}{', dropped' if self.dropped else ''})"

    @property
    def retries(self) -> dict[str, int]:
        """Cause -> attempts of its download that were tried again, so far."""
        if self.download is not None:
            return self.download.retries()
        return {} if self.fetched is None else self.fetched.retries

    def failed(self, error: BadPairError) -> Failed:
        """Return the answer for a pair that fails to load."""
        retries = error.retries if self.fetched is None else self.fetched.retries or error.retries
        return Failed(self.ring, self.seq, str(error), error.cause, error.attempts, retries)


class Backlog:
    """What a worker was given and has not answered.

    Attributes:
        taken: pairs to be downloaded, since the start.
        missing: pairs that have to be downloaded.
    """

    def __init__(self, rings: int) -> None:
        """Begin with nothing; no ring has room yet."""
        self.taken = self.missing = 0
        self._pairs: dict[tuple[int, int], PendingPair] = {}
        self._to_download: PairTurns[PendingPair] = PairTurns()
        self._to_decode: PairTurns[PendingPair | CopyRun] = PairTurns()
        self._limits = [0] * rings
        self._beyond: list[dict[int, PendingPair | CopyJob]] = [{} for _ in range(rings)]

    def __repr__(self) -> str:
        return f"Backlog({len(self._pairs)} to fetch, to download {self._to_download!r}, to decode {self._to_decode!r})"

    def get(self, ring: int, seq: int) -> PendingPair | None:
        """Return the pair with this number; None if the worker does not have it, or only copies it."""
        return self._pairs.get((ring, seq))

    def add(self, ring: int, job: PairJob, *, at_hand: bool) -> None:
        """Take a pair.

        Args:
            at_hand: nothing has to be downloaded for it.
        """
        pair = self._pairs[ring, job.seq] = PendingPair(ring, job)
        if at_hand:
            self.at_hand(pair)
        else:
            self.taken += 1
            self.download(pair)

    def add_copies(self, ring: int, copies: list[CopyJob]) -> None:
        """Take pairs that are to be copied out of the memory tier."""
        limit, beyond = self._limits[ring], self._beyond[ring]
        for copy in copies:
            if copy.seq < limit:
                self._append_copy(ring, copy)
            else:
                beyond[copy.seq] = copy

    def _append_copy(self, ring: int, copy: CopyJob) -> None:
        queue = self._to_decode.of(ring)
        if queue and isinstance(last := queue[-1], CopyRun) and len(last.copies) < COPIED_AT_ONCE:
            last.copies.append(copy)
        else:
            self._to_decode.append(CopyRun(ring, copy))

    def at_hand(self, pair: PendingPair) -> bool:
        """Let a pair be decoded as soon as its ring has room for it; return True if it has."""
        self._note_missing(pair, missing=False)
        if pair.seq < self._limits[pair.ring]:
            self._to_decode.append(pair)
            return True
        self._beyond[pair.ring][pair.seq] = pair
        return False

    def download(self, pair: PendingPair) -> None:
        """Let a pair be downloaded; also one that was to be read from disk and is not there."""
        self._note_missing(pair, missing=True)
        self._to_download.append(pair)

    def _note_missing(self, pair: PendingPair, *, missing: bool) -> None:
        self.missing += missing - pair.missing
        pair.missing = missing

    def raise_limit(self, ring: int, limit: int) -> None:
        """Let pairs of a ring below ``limit`` be decoded, in order."""
        self._limits[ring] = limit
        beyond = self._beyond[ring]
        for seq in sorted(seq for seq in beyond if seq < limit):
            one = beyond.pop(seq)
            if isinstance(one, CopyJob):
                self._append_copy(ring, one)
            else:
                self._to_decode.append(one)

    def cancel(self, ring: int, below: int) -> tuple[list[PendingPair], list[int]]:
        """Drop the pairs of a ring below ``below``, and return them: each is answered, and its download ended.

        Returns:
            Those that were to be fetched; the numbers of those that were to be copied.
        """
        beyond = self._beyond[ring]
        copies = [seq for seq, one in beyond.items() if seq < below and isinstance(one, CopyJob)]
        for seq in copies:
            del beyond[seq]
        for run in self._to_decode.of(ring):
            if isinstance(run, CopyRun):
                copies += [copy.seq for copy in run.copies if copy.seq < below]
                run.copies = [copy for copy in run.copies if copy.seq >= below]
        dropped = [pair for pair in self._pairs.values() if pair.ring == ring and pair.seq < below]
        for pair in dropped:
            pair.dropped = True
            beyond.pop(pair.seq, None)
            self.remove(pair)
        return dropped, copies

    def give_back(self, most: int) -> list[PendingPair]:
        """Forget pairs that have to be downloaded, those needed last, until no more than ``most`` are missing.

        One with a request under way stays. Of two objects one may be there: to ask for it once more costs less than to
        wait for the other one here.

        Returns:
            Those, in order within a ring.
        """
        back: list[PendingPair] = []
        for pair in sorted(self._pairs.values(), key=lambda one: self._limits[one.ring] - one.seq):
            if self.missing <= most:
                break
            if pair.missing and (pair.download is None or pair.download.idle):
                pair.dropped = True
                self.remove(pair)
                back.append(pair)
        return back[::-1]

    def remove(self, pair: PendingPair) -> None:
        """Forget a pair that is answered."""
        self._note_missing(pair, missing=False)
        del self._pairs[pair.ring, pair.seq]

    def next_download(self) -> PendingPair | None:
        """Take the pair that is downloaded next; None if none waits for that."""
        while self._to_download:
            pair = self._to_download.popleft()
            if not pair.dropped:
                return pair
        return None

    def next_decode(self) -> PendingPair | CopyRun | None:
        """Take the pair that is decoded, or the run that is copied, next; None if none waits for that."""
        while self._to_decode:
            following = self._to_decode.popleft()
            if isinstance(following, CopyRun) or not following.dropped:
                return following
        return None

    @property
    def decodable(self) -> bool:
        """Whether pairs wait to be decoded or copied, those that were dropped included."""
        return bool(self._to_decode)

    @property
    def waits_for_store(self) -> bool:
        """Whether pairs are missing that there is room for, and no more may be requested."""
        if not self._to_download:
            return False
        following = self._to_download[0]
        return following.seq < self._limits[following.ring]
