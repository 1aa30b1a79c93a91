"""The worker: a process that downloads pairs and decodes them straight into their slots, all in one thread.

The pool has it forked by the fork server, or starts ``python -m ringfeedd.worker.worker FD``. It owns
nothing that others wait for, and may die at any time.

Downloads go on in the kernel and in libcurl while a pair is decoded, and their events are looked at between two
decodes. So a core is never without work while there is any, no thread waits for the interpreter's lock, and a pair that
kills the process is the one that was being decoded (see ``docs/adr/0006``).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import socket
import sys
import time
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ringfeed.shm import segment
from ringfeed.shm.layout import page_ceil
from ringfeedd.cache.rows import Rows
from ringfeedd.cache.segments import Entry, SegmentReader, SegmentWriter, WrongEntryError
from ringfeedd.decode.image import quiet_codecs
from ringfeedd.decode.memory import limit_own_memory, worker_bytes
from ringfeedd.decode.pair import Decoded as DecodedPair
from ringfeedd.decode.pair import decode_pair
from ringfeedd.errors import BadPairError, encodable
from ringfeedd.fetch.client import StoreClient
from ringfeedd.fetch.download import PairDownload
from ringfeedd.fetch.policy import Fetched
from ringfeedd.fetch.starvation import StarvationTimer
from ringfeedd.storage import Source, open_source
from ringfeedd.system.histogram import DECODE_BOUNDS_S, FETCH_BOUNDS_S, Histogram
from ringfeedd.system.prctl import ignore, name_process
from ringfeedd.worker import protocol as messages
from ringfeedd.worker.heartbeat import (
    BUSY_NS_WORD,
    CPU_NS_WORD,
    DECODE_WORDS,
    FETCH_WORDS,
    HEARTBEAT_WORD,
    SUSPECT_RING_SHIFT,
    SUSPECT_WORD,
    UNDER_WAY_WORD,
    VITAL_WORDS,
    WINDOW_WORD,
    vital_bytes,
)
from ringfeedd.worker.launcher import ORDERS
from ringfeedd.worker.protocol import (
    Cancel,
    Copied,
    CopyJob,
    Decoded,
    Dropped,
    Failed,
    Hello,
    Jobs,
    Limit,
    PairJob,
    Result,
    Retune,
    RingSpec,
)
from ringfeedd.worker.turns import PairTurns

NAME: Final = "ringfeed-worker"
"""What ``ps`` and ``top`` call it, however it was started."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

HEARTBEAT_S: Final = 0.5

HURRY_PAIRS: Final = 32
"""The pair that a ring waits for, and those that it will wait for next."""

HURRY_S: Final = 0.1
"""Between two looks at the pairs that the rings wait for."""

RESULTS_WAIT_S: Final = 0.01
"""What ends within it goes to the supervisor in one frame: waking both sides for each pair costs more than that pair's
words, and a ring does not miss 10 ms."""

BUSY_RESULTS_WAIT_S: Final = 0.03
"""The same while more pairs wait to be decoded: then no reader waits for these, or all wait for many more."""

DECODE_TURN_S: Final = 0.004
"""Decodes go on for so long, and to the end of the one under way, before the loop looks at the network again."""


def keep_freed_memory() -> None:
    """Have malloc keep big buffers for the next pair: each return trip to the kernel costs a fault for every page."""
    with contextlib.suppress(AttributeError, OSError):  # another libc: slower, not wrong
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


class SlotRows:
    """One ring's rows, writable, and how far they may be written.

    Attributes:
        limit: pairs below it may be decoded.
        beyond: those that lie there already and may not, by seq.
    """

    def __init__(self, spec: RingSpec) -> None:
        self.spec = spec
        self.limit = 0
        self.beyond: dict[int, _Pair] = {}
        decode = spec.decode
        self._image = self._map(spec.image_offset, decode.image_row_shape, "uint8")
        self._label = self._map(spec.label_offset, decode.label_row_shape, str(decode.label_dtype))

    def _map(self, offset: int, row_shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        shape = (self.spec.slots, *row_shape)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        view = segment.map_region(self.spec.data_fd, offset, page_ceil(size), writable=True, twice=False)
        return np.ndarray(shape, dtype, buffer=view)

    def rows(self, seq: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Image and label row of the slot of ``seq``."""
        slot = seq % self.spec.slots
        return self._image[slot], self._label[slot]

    def raise_limit(self, limit: int) -> list[_Pair]:
        """Let pairs below ``limit`` be decoded; gives back those that waited for it, in order."""
        self.limit = limit
        return [self.beyond.pop(seq) for seq in sorted(seq for seq in self.beyond if seq < limit)]


class _Pair:
    """One pair on its way through the worker.

    Attributes:
        download: under way; None while there is none.
        fetched: its bytes; None before.
        from_disk: these came from the disk tier; wrong: what was there was not whole.
        dropped: it was cancelled and answered: the loop passes it by.
    """

    __slots__ = ("download", "dropped", "fetched", "from_disk", "job", "ring", "seq", "wrong")

    def __init__(self, ring: int, job: PairJob | CopyJob) -> None:
        self.ring, self.seq, self.job = ring, job.seq, job
        self.download: PairDownload | None = None
        self.fetched: Fetched | None = None
        self.from_disk = self.wrong = self.dropped = False


class Worker:
    """Carries out the supervisor's orders until it is told to stop or the supervisor is gone."""

    def __init__(self, hello: Hello, source: Source, writer: asyncio.StreamWriter) -> None:
        self._hello = hello
        self._loop = asyncio.get_running_loop()
        self._vitals = memoryview(mmap.mmap(hello.vitals_fd, vital_bytes(len(hello.rings)))).cast("Q")
        self._client = StoreClient(
            source,
            hello.policy,
            first=hello.concurrency,
            most=hello.most_concurrency,
            witness=hello.witness,
            feed=self._download_next,
            fetched=Histogram(FETCH_BOUNDS_S, self._vitals, FETCH_WORDS),
        )
        self._reported = self._client.report()
        self._writer = writer
        self._rings = [SlotRows(spec) for spec in hello.rings]
        self._pairs: dict[tuple[int, int], _Pair] = {}
        self._to_download: PairTurns[_Pair] = PairTurns()
        self._starvation = StarvationTimer(self._loop.time())
        self._came = 0
        self._to_decode: PairTurns[_Pair] = PairTurns()
        self._decoding = self._flushing = False
        self._decoded = Histogram(DECODE_BOUNDS_S, self._vitals, DECODE_WORDS)
        self._busy_s = self._busy_since = 0.0
        self._flush_by = 0.0
        self._memory = worker_bytes([spec.decode for spec in hello.rings])
        self._results: list[Result] = []
        self._copied = [Copied(ring, [], []) for ring in range(len(hello.rings))]
        self._cached_rows = self._map_cache(hello)
        self._disk = None if hello.disk is None else (SegmentReader(hello.disk), SegmentWriter(hello.disk))
        self._disk_error = ""

    @staticmethod
    def _map_cache(hello: Hello) -> Rows | None:
        if hello.memory is None:
            return None
        decode = hello.rings[0].decode  # the same for all rings
        return Rows(hello.memory, decode.image_row_shape, decode.label_row_shape, decode.label_dtype)

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Work until told to stop."""
        limit_own_memory(self._memory)  # all rings are mapped, and nothing is fetched yet
        self._beat()
        self._hurry()
        while (order := await messages.read_order(reader)) is not None:
            match order:
                case Jobs(ring, jobs, copies):
                    self._take(ring, jobs, copies)
                case Limit(ring, limit):
                    for pair in self._rings[ring].raise_limit(limit):
                        self._decode_soon(pair)
                case Cancel(ring, below):
                    for pair in [one for one in self._pairs.values() if one.ring == ring and one.seq < below]:
                        self._drop(pair)
                    self._client.pump()
                case Retune(concurrency, most, policy):
                    self._client.retune(policy, concurrency, most)
                case _:
                    return

    def _take(self, ring: int, jobs: list[PairJob], copies: list[CopyJob]) -> None:
        for job in jobs:
            pair = self._pairs[ring, job.seq] = _Pair(ring, job)
            if job.disk is None or job.disk.place < 0 or self._disk is None:
                self._to_download.append(pair)
            else:
                self._disk[0].read_ahead(job.disk.place, job.disk.size)
                self._came_to_hand(pair)
        for copy in copies:
            pair = self._pairs[ring, copy.seq] = _Pair(ring, copy)
            self._came_to_hand(pair)
        if jobs:
            self._client.pump()

    def _beat(self) -> None:
        self._vitals[HEARTBEAT_WORD] += 1
        self._vitals[CPU_NS_WORD] = time.process_time_ns()
        if self._client.report() != self._reported:
            self._flush_soon()
        self._look_at_window()
        self._loop.call_later(HEARTBEAT_S, self._beat)

    def _look_at_window(self) -> None:
        now = self._loop.time()
        passed_s, starved = self._starvation.look(now)
        if passed_s:
            self._client.window.look(now, pairs=self._came / passed_s, starved=starved)
        self._came = 0
        self._client.pump()

    def _hurry(self) -> None:
        """Send second requests for the pairs that the rings wait for, if they are late."""
        for ring in range(len(self._rings)):
            first = self._vitals[VITAL_WORDS + ring]
            for seq in range(first, first + HURRY_PAIRS):
                pair = self._pairs.get((ring, seq))
                if pair is not None and pair.download is not None:
                    self._client.hurry(pair.download, soon=seq > first)
        self._tell_what_it_does()
        self._loop.call_later(HURRY_S, self._hurry)

    def _tell_what_it_does(self) -> None:
        now, vitals = self._loop.time(), self._vitals
        if self._decoding:
            self._busy_s += now - self._busy_since
            self._busy_since = now
        vitals[BUSY_NS_WORD] = int(1e9 * self._busy_s)
        vitals[UNDER_WAY_WORD] = self._client.under_way
        vitals[WINDOW_WORD] = int(self._client.window.size)

    # Downloads.

    def _download_next(self) -> bool:
        """Begin one more, if there is one."""
        while self._to_download:
            pair = self._to_download.popleft()
            if not pair.dropped:
                assert isinstance(pair.job, PairJob)
                pair.download = self._client.fetch(pair.job.pair, partial(self._downloaded, pair))
                return True
        return False

    def _downloaded(self, pair: _Pair, came: Fetched | BadPairError) -> None:
        pair.download = None
        if isinstance(came, BadPairError):
            del self._pairs[pair.ring, pair.seq]
            self._results.append(self._failed(pair.ring, pair.seq, came))
            self._flush_soon()
            return
        self._came += 1
        pair.fetched = came
        self._came_to_hand(pair)

    def _came_to_hand(self, pair: _Pair) -> None:
        rows = self._rings[pair.ring]
        if pair.seq < rows.limit:
            self._decode_soon(pair)
        else:
            rows.beyond[pair.seq] = pair

    def _drop(self, pair: _Pair) -> None:
        """Answer for a pair that is no longer wanted; its slot is not written."""
        pair.dropped = True
        del self._pairs[pair.ring, pair.seq]
        self._rings[pair.ring].beyond.pop(pair.seq, None)
        retries = {} if pair.fetched is None else pair.fetched.retries
        if pair.download is not None:
            pair.download.cancel()
            retries = pair.download.retries()
            pair.download = None
        self._results.append(Dropped(pair.ring, pair.seq, retries))
        self._flush_soon()

    def _failed(self, ring: int, seq: int, error: BaseException, retries: dict[str, int] | None = None) -> Failed:
        """Return the failure of a pair; ``retries`` are those of its download, where that came to a good end."""
        if isinstance(error, BadPairError):
            return Failed(ring, seq, str(error), error.cause, error.attempts, retries or error.retries)
        if isinstance(error, MemoryError):
            return Failed(ring, seq, self._no_memory, "memory", 1, retries or {})
        return Failed(ring, seq, encodable(f"{type(error).__name__}: {error}"), "internal", 1, retries or {})

    @property
    def _no_memory(self) -> str:
        return (
            f"there was no memory for it: a worker may use {self._memory >> 20} MiB besides the rings, which is more "
            f"than max_pixels needs; look at the object, and at how much memory the machine has left"
        )

    # Decoding.

    def _decode_soon(self, pair: _Pair) -> None:
        self._to_decode.append(pair)
        if not self._decoding:
            self._decoding = True
            self._busy_since = now = self._loop.time()
            self._starvation.end(now)
            self._loop.call_soon(self._decode_some)

    def _decode_some(self) -> None:
        """What the network has brought meanwhile, and the supervisor, come in between."""
        now = self._loop.time()
        end = now + DECODE_TURN_S
        try:
            while self._to_decode:
                pair, began = self._to_decode.popleft(), now
                self._decode(pair)
                now = self._loop.time()
                if not pair.dropped:
                    self._decoded.add(now - began)
                if now >= end:
                    break
        finally:
            if self._to_decode:
                self._loop.call_soon(self._decode_some)
            else:
                self._decoding = False
                self._busy_s += now - self._busy_since
                if self._waits_for_store():
                    self._starvation.begin(now)

    def _waits_for_store(self) -> bool:
        """Whether pairs are missing that there is room for, and no more may be asked for."""
        if not self._to_download:
            return False
        following = self._to_download[0]
        return following.seq < self._rings[following.ring].limit

    def _decode(self, pair: _Pair) -> None:
        if pair.dropped:
            return
        job = pair.job
        if isinstance(job, CopyJob):
            self._copy(pair.ring, job)
            return
        if pair.fetched is None and not self._read_from_disk(pair, job):
            self._to_download.append(pair)
            self._client.pump()
            return
        assert pair.fetched is not None
        del self._pairs[pair.ring, pair.seq]
        try:
            result: Result = self._decode_into_slot(pair, job, pair.fetched)
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one pair, not the worker
            result = self._failed(pair.ring, pair.seq, error, pair.fetched.retries)
        self._results.append(result)
        self._flush_soon()

    def _decode_into_slot(self, pair: _Pair, job: PairJob, fetched: Fetched) -> Decoded:
        ring, seq = pair.ring, pair.seq
        self._vitals[SUSPECT_WORD] = ring << SUSPECT_RING_SHIFT | seq + 1
        rows = self._rings[ring]
        image, label = rows.rows(seq)
        total: int | None = None
        try:
            decoded = decode_pair(fetched.image, fetched.label, rows.spec.decode, image, label)
            if job.row >= 0 and self._cached_rows is not None:
                total = self._cached_rows.fill(job.row, image, label)
        finally:
            self._vitals[SUSPECT_WORD] = 0
        if job.disk is None and total is None:
            return self._answer(pair, decoded, fetched)
        stored = None if pair.from_disk else self._store(job, fetched)
        return self._answer(pair, decoded, fetched, stored, total)

    @staticmethod
    def _answer(
        pair: _Pair, decoded: DecodedPair, fetched: Fetched, stored: Entry | None = None, total: int | None = None
    ) -> Decoded:
        return Decoded(
            pair.ring,
            pair.seq,
            (decoded.image_height, decoded.image_width, decoded.label_height, decoded.label_width),
            decoded.size_mismatch,
            0 if pair.from_disk else len(fetched.image) + len(fetched.label),
            fetched.retries,
            decoded.turn_unsure,
            pair.from_disk,
            pair.wrong,
            stored,
            total,
        )

    # The tiers.

    def _copy(self, ring: int, job: CopyJob) -> None:
        """Copy a row of the memory tier into its slot, if it is whole."""
        assert self._cached_rows is not None
        del self._pairs[ring, job.seq]
        self._vitals[SUSPECT_WORD] = ring << SUSPECT_RING_SHIFT | job.seq + 1
        copied = self._copied[ring]
        if job.total and self._cached_rows.sum(job.row) != job.total:
            copied.wrong.append(job.seq)
        else:
            self._cached_rows.copy(job.row, *self._rings[ring].rows(job.seq))
            copied.seqs.append(job.seq)
        self._vitals[SUSPECT_WORD] = 0
        self._flush_soon()

    def _read_from_disk(self, pair: _Pair, job: PairJob) -> bool:
        """Read a pair from the disk tier; return False where it is not there, or not whole."""
        assert job.disk is not None
        assert self._disk is not None
        disk = job.disk
        try:
            found = self._disk[0].read(disk.place, disk.size, disk.pair_id, disk.version)
        except (OSError, WrongEntryError):
            pair.wrong = True
            return False
        pair.fetched = Fetched(found.image, found.label)
        pair.from_disk = True
        return True

    def _store(self, job: PairJob, fetched: Fetched) -> Entry | None:
        """Store a pair in the disk tier, if it is to be."""
        if job.disk is None or not job.disk.store or self._disk is None:
            return None
        try:
            return self._disk[1].append(job.disk.pair_id, job.disk.version, fetched.image, fetched.label)
        except OSError as error:
            self._disk_error = encodable(error.strerror or str(error))
            return None

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._flush_by = self._loop.time() + BUSY_RESULTS_WAIT_S
            self._loop.call_later(RESULTS_WAIT_S, self._flush)

    def _flush(self) -> None:
        if self._decoding and self._loop.time() < self._flush_by:
            self._loop.call_later(RESULTS_WAIT_S, self._flush)
            return
        self._flushing = False
        report = self._client.report()
        copied = [one for one in self._copied if one.seqs or one.wrong]
        if self._results or copied or report != self._reported:
            self._reported = report
            self._writer.write(messages.frame_of_results(self._results, report, copied, self._disk_error))
            self._results, self._disk_error = [], ""
            for one in copied:
                one.seqs.clear()
                one.wrong.clear()


async def _main(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    hello = await messages.read_order(reader)
    if not isinstance(hello, Hello):
        return  # the supervisor went before it had said anything
    name_process(NAME)
    source = await open_source(
        hello.root,
        emulator=hello.emulator,
        concurrency=hello.most_concurrency,
        read_timeout_s=hello.policy.read_timeout_s,
        transport=hello.policy.transport,
        user_project=hello.policy.user_project,
    )
    await Worker(hello, source, writer).run(reader)


def main(fd: int) -> None:
    """Run the worker on an inherited socket, and leave without waiting for anything."""
    ignore(ORDERS)
    keep_freed_memory()
    quiet_codecs()
    asyncio.run(_main_then_exit(socket.socket(fileno=fd)))


async def _main_then_exit(connection: socket.socket) -> None:
    code = 1
    try:
        await _main(connection)
        code = 0
    except BaseException as error:  # noqa: BLE001  # the last sentence of a dying process
        with contextlib.suppress(OSError):
            sys.stderr.write(f"ringfeed worker {os.getpid()}: {type(error).__name__}: {error}\n")
    os._exit(code)  # a thread that reads from a disk which hangs must not keep the process


if __name__ == "__main__":
    main(int(sys.argv[1]))
