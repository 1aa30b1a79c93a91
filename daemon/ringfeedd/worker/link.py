"""The pool's end of one worker: its process and connection, the pairs it has, and how long it has been silent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import socket
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ringfeedd.catalog.catalog import Pair
from ringfeedd.system.children import STOPPED, WorkerProcess, process_state
from ringfeedd.worker import protocol as messages
from ringfeedd.worker.heartbeat import CREDIT_WORD, HEARTBEAT_WORD, SUSPECT_RING_SHIFT, SUSPECT_WORD, vital_bytes
from ringfeedd.worker.process import Spawner
from ringfeedd.worker.protocol import Hello, Jobs, ToWorker

_LOG: Final = logging.getLogger("ringfeedd.pool")

SILENCE_S: Final = 10.0
"""A worker that has not turned its loop for so long is named in the log."""

START_TIMEOUT_S: Final = 60.0
"""A worker that has not begun has its imports before it, which take long on a busy machine."""

END_TIMEOUT_S: Final = 1.0
"""A worker that has closed its connection, or is to end, has so long for it."""


@dataclass
class WorkerLink:
    """One worker, from its start to its end.

    Attributes:
        number: its place in the pool, which the next one takes over.
        vitals: its words, which can be read when it is dead, too; see `vitals`.
        pairs: what it was given to fetch and has not answered, by (ring, seq).
        copies: numbers of the pairs that it was given to copy and has not answered, by ring.
        given: pairs that it was given to download, since its start.
        finished: pairs that it has answered.
    """

    number: int
    process: WorkerProcess
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    vitals: memoryview
    pairs: dict[tuple[int, int], Pair] = field(default_factory=dict)
    copies: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    given: int = 0
    finished: int = 0
    _heartbeat: tuple[int, float] | None = None
    _named: bool = False

    @classmethod
    async def open(cls, number: int, hello: Hello, spawner: Spawner) -> WorkerLink:
        """Start a worker, and say what it needs to know.

        Args:
            hello: all of that but `Hello.vitals_fd`, which is made here.

        Raises:
            OSError: it cannot be started now.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, os.fdopen(os.memfd_create(f"ringfeed-worker-{number}"), "rb", buffering=0) as memory:
                vitals_fd, size = memory.fileno(), vital_bytes(len(hello.rings))
                os.ftruncate(vitals_fd, size)
                vitals = memoryview(mmap.mmap(vitals_fd, size)).cast("Q")
                fds = [theirs.fileno(), vitals_fd, *(ring.data_fd for ring in hello.rings)]
                fds += [] if hello.memory is None else [hello.memory.fd]
                process = await spawner.spawn(fds)
                reader, writer = await asyncio.open_connection(sock=ours)
                link = cls(number, process, reader, writer, vitals)
                link.send(msgspec.structs.replace(hello, vitals_fd=vitals_fd))
        except BaseException:
            ours.close()
            raise
        return link

    @property
    def load(self) -> int:
        """Pairs that it was given and has not answered."""
        return len(self.pairs) + sum(map(len, self.copies.values()))

    @property
    def credit(self) -> int | None:
        """Pairs to be downloaded that it takes now; None for as many as there are."""
        credit = self.vitals[CREDIT_WORD]
        return max(0, credit - self.given) if credit else None

    def give(self, share: Jobs) -> None:
        """Give it pairs."""
        self.given += len([job for job in share.jobs if job.disk is None or job.disk.place < 0])
        self.pairs.update(((share.ring, job.seq), job.pair) for job in share.jobs)
        if share.copies:
            self.copies[share.ring].update([copy.seq for copy in share.copies])
        self.send(share)

    def send(self, message: ToWorker) -> None:
        """Send a message; nothing happens where the worker has ended."""
        self.writer.write(messages.frame(message))

    def kill(self) -> None:
        """End the process, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def end(self) -> int:
        """See to it that a process which has closed its side ends; return how it did."""
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()

    @property
    def decoding(self) -> tuple[int, int] | None:
        """The pair, as (ring, seq), that was being decoded when the process was last alive."""
        word = self.vitals[SUSPECT_WORD]
        return (word >> SUSPECT_RING_SHIFT, (word & (1 << SUSPECT_RING_SHIFT) - 1) - 1) if word else None

    @property
    def begun(self) -> bool:
        """Whether its loop has turned."""
        return bool(self.vitals[HEARTBEAT_WORD])

    def look(self, now: float, timeout_s: float) -> None:
        """Name it in the log when it is silent, and kill it when it hangs.

        One that a signal or a debugger has stopped is killed after `SILENCE_S` already: its pairs can be given to
        others only when it cannot write into their slots any more.

        Args:
            now: seconds, monotonic.
            timeout_s: how long one that is not stopped may be silent, e.g. in a codec.
        """
        silent_s, begun = self._silent_s(now), self.begun
        limit_s = timeout_s if begun else max(timeout_s, START_TIMEOUT_S)
        if silent_s <= min(SILENCE_S, limit_s):
            return
        stopped = process_state(self.process.pid) in STOPPED
        suspect = self.decoding
        what = "has not turned its loop" if suspect is None else f"has been decoding pair {suspect[1]}"
        if stopped or silent_s > limit_s:
            why = "has been stopped by a signal or a debugger" if stopped else what
            _LOG.warning("worker %d (pid %d) %s for %.0f s; it is killed", self.number, self.process.pid, why, silent_s)
            self._heartbeat = None
            self.kill()
        elif begun and not self._named:
            self._named = True
            _LOG.warning(
                "worker %d (pid %d) %s for %.0f s; the ring waits for its pairs. It is killed after %.0f s",
                *(self.number, self.process.pid, what, silent_s, limit_s),
            )

    def _silent_s(self, now: float) -> float:
        """Seconds since its loop was last seen to turn."""
        beat = self.vitals[HEARTBEAT_WORD]
        if self._heartbeat is None or self._heartbeat[0] != beat:
            self._heartbeat = (beat, now)
            self._named = False
        return now - self._heartbeat[1]
