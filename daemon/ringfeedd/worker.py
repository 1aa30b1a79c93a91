"""The worker: a process that downloads pairs and decodes them straight into their slots.

The pool has it forked by the fork server, or starts ``python -m ringfeedd.worker FD``. It owns nothing that others wait
for, and may die at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import mmap
import os
import signal
import socket
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ringfeed import segment
from ringfeed.layout import page_ceil
from ringfeedd import messages
from ringfeedd.decode import decode_pair
from ringfeedd.decode_gate import DecodeGate
from ringfeedd.errors import BadPairError
from ringfeedd.fetch import Fetched, fetch_pair
from ringfeedd.memory_limit import limit_own_memory, worker_bytes
from ringfeedd.messages import Cancel, Decoded, Dropped, Failed, Hello, Jobs, Limit, PairJob, Result, Results, RingSpec
from ringfeedd.prctl import name_process
from ringfeedd.sources import Source, open_source
from ringfeedd.traffic import Traffic
from ringfeedd.vitals import FIRST_SUSPECT_WORD, HEARTBEAT_WORD, SUSPECT_RING_SHIFT, vital_words

NAME: Final = "ringfeed-worker"
"""What ``ps`` and ``top`` call it, however it was started."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

HEARTBEAT_S: Final = 0.5

RESULTS_WAIT_S: Final = 0.01
"""What ends within it goes to the supervisor in one frame: waking both sides for each pair costs more than that pair's
words, and a ring does not miss 10 ms."""


def keep_freed_memory() -> None:
    """Have malloc keep big buffers for the next pair: each return trip to the kernel costs a fault for every page."""
    with contextlib.suppress(AttributeError, OSError):  # another libc: slower, not wrong
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


class SlotRows:
    """One ring's rows, writable, and how far they may be written."""

    def __init__(self, spec: RingSpec) -> None:
        self.spec = spec
        self.limit = 0
        self.changed = asyncio.Event()
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

    def raise_limit(self, limit: int) -> None:
        """Let pairs below ``limit`` be decoded."""
        self.limit = limit
        self.changed.set()
        self.changed = asyncio.Event()

    async def room(self, seq: int) -> None:
        """Wait until ``seq`` may be decoded."""
        while seq >= self.limit:
            await self.changed.wait()


class Worker:
    """Carries out the supervisor's orders until it is told to stop or the supervisor is gone."""

    def __init__(self, hello: Hello, source: Source, writer: asyncio.StreamWriter) -> None:
        self._hello = hello
        self._traffic = Traffic(
            source,
            concurrency=hello.concurrency,
            retry_budget=hello.policy.retry_budget,
            requests_per_s=hello.policy.start_requests_per_s,
            hedge=hello.policy.hedge,
            known=hello.known,
            on_change=self._flush_soon,
        )
        self._reported = self._traffic.statistics()
        self._writer = writer
        self._rings = [SlotRows(spec) for spec in hello.rings]
        self._downloads = asyncio.Semaphore(max(1, hello.concurrency // 2))  # a pair is two objects
        self._threads = ThreadPoolExecutor(hello.threads, thread_name_prefix="decode")
        self._vitals = memoryview(mmap.mmap(hello.vitals_fd, vital_words(hello.threads) * 8)).cast("Q")
        self._thread = threading.local()
        self._thread_numbers = iter(range(FIRST_SUSPECT_WORD, vital_words(hello.threads)))
        self._gate = DecodeGate()
        self._waiting: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._decoded: deque[Result] = deque()
        self._memory = worker_bytes([spec.decode for spec in hello.rings], hello.threads)
        self._results: list[Result] = []
        self._flushing = False

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Work until told to stop."""
        limit_own_memory(self._memory)  # all rings are mapped, and nothing is fetched yet
        self._beat()
        while (order := await messages.read_order(reader)) is not None:
            match order:
                case Jobs(ring, jobs):
                    for job in jobs:
                        task = self._waiting[ring, job.seq] = asyncio.create_task(self._pair(ring, job))
                        task.add_done_callback(partial(self._drop_if_cancelled, ring, job.seq))
                case Limit(ring, limit):
                    self._rings[ring].raise_limit(limit)
                case Cancel(ring, below):
                    for (number, seq), task in list(self._waiting.items()):
                        if number == ring and seq < below:
                            task.cancel()
                case _:
                    return

    def _beat(self) -> None:
        self._vitals[HEARTBEAT_WORD] += 1
        if self._traffic.statistics() != self._reported:
            self._flush_soon()
        asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)

    async def _pair(self, ring: int, job: PairJob) -> None:
        key = (ring, job.seq)
        try:
            async with self._downloads:
                fetched = await fetch_pair(self._traffic, job.pair, self._hello.policy)
            await self._rings[ring].room(job.seq)
            await self._gate.enter(alone=job.alone)
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one pair, not the worker
            self._waiting.pop(key, None)
            self._results.append(self._failed(ring, job.seq, error))
        else:
            del self._waiting[key]  # from here on the slot is being written, and the pair cannot be cancelled
            self._threads.submit(self._decode, ring, job.seq, fetched)
        self._flush_soon()

    def _failed(self, ring: int, seq: int, error: BaseException) -> Failed:
        if isinstance(error, BadPairError):
            return Failed(ring, seq, str(error), error.cause, error.attempts, error.retries)
        if isinstance(error, MemoryError):
            return Failed(ring, seq, self._no_memory, "memory", 1)
        return Failed(ring, seq, f"{type(error).__name__}: {error}", "internal", 1)

    @property
    def _no_memory(self) -> str:
        return (
            f"there was no memory for it: a worker may use {self._memory >> 20} MiB beside the rings, which is more "
            f"than max_pixels needs; look at the object, and at how much memory the machine has left"
        )

    def _drop_if_cancelled(self, ring: int, seq: int, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # maybe before its first step, which no except clause inside it would see
            self._waiting.pop((ring, seq), None)
            self._results.append(Dropped(ring, seq))
            self._flush_soon()

    def _decode(self, ring: int, seq: int, fetched: Fetched) -> None:
        """In a thread. The loop is not woken: it looks for what came of it every `RESULTS_WAIT_S`."""
        try:
            result: Result = self._decode_into_slot(ring, seq, fetched)
        except BaseException as error:  # noqa: BLE001  # nobody else would ever hear of it
            result = self._failed(ring, seq, error)
        self._decoded.append(result)

    def _decode_into_slot(self, ring: int, seq: int, fetched: Fetched) -> Decoded:
        number = getattr(self._thread, "number", None)
        if number is None:
            number = self._thread.number = next(self._thread_numbers)
        self._vitals[number] = ring << SUSPECT_RING_SHIFT | seq + 1
        rows = self._rings[ring]
        image, label = rows.rows(seq)
        try:
            decoded = decode_pair(fetched.image, fetched.label, rows.spec.decode, image, label)
        finally:
            self._vitals[number] = 0
        return Decoded(
            ring,
            seq,
            (decoded.image_height, decoded.image_width, decoded.label_height, decoded.label_width),
            decoded.size_mismatch,
            len(fetched.image) + len(fetched.label),
            fetched.retries,
        )

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_later(RESULTS_WAIT_S, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        while self._decoded:
            self._results.append(self._decoded.popleft())
            self._gate.leave()
        if self._gate.inside:
            self._flush_soon()
        traffic = self._traffic.statistics()
        if self._results or traffic != self._reported:
            self._reported = traffic
            self._writer.write(messages.frame(Results(self._results, traffic)))
            self._results = []


async def _main(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    hello = await messages.read_order(reader)
    if not isinstance(hello, Hello):
        return  # the supervisor went before it had said anything
    name_process(NAME)
    source = await open_source(
        hello.root,
        emulator=hello.emulator,
        concurrency=hello.concurrency,
        read_timeout_s=hello.policy.read_timeout_s,
        data_plane=hello.policy.data_plane,
    )
    await Worker(hello, source, writer).run(reader)


def main(fd: int) -> None:
    """Run the worker on an inherited socket, and leave without waiting for anything."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the supervisor decides
    keep_freed_memory()
    asyncio.run(_main_then_exit(socket.socket(fileno=fd)))


async def _main_then_exit(connection: socket.socket) -> None:
    code = 1
    try:
        await _main(connection)
        code = 0
    except BaseException as error:  # noqa: BLE001  # the last sentence of a dying process
        sys.stderr.write(f"ringfeed worker {os.getpid()}: {type(error).__name__}: {error}\n")
    os._exit(code)  # a decode that hangs in a thread must not keep the process


if __name__ == "__main__":
    main(int(sys.argv[1]))
