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
import mmap
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

from ringfeedd.decode.image import quiet_codecs
from ringfeedd.decode.memory import limit_own_memory
from ringfeedd.decode.pair import Decoded as DecodedPair
from ringfeedd.decode.pair import decode_pair
from ringfeedd.errors import BadPairError
from ringfeedd.fetch.client import StoreClient
from ringfeedd.storage import Source, StoreSettings, open_source
from ringfeedd.system.histogram import DECODE_BOUNDS_S, Histogram
from ringfeedd.system.prctl import ignore, keep_freed_memory, name_process
from ringfeedd.worker import protocol as messages
from ringfeedd.worker.backlog import Backlog, CopyRun, PendingPair
from ringfeedd.worker.decoder import Decoder
from ringfeedd.worker.downloader import Downloader
from ringfeedd.worker.heartbeat import BUSY_NS_WORD, CPU_NS_WORD, DECODE_WORDS, HEARTBEAT_WORD, vital_bytes
from ringfeedd.worker.launcher import ORDERS
from ringfeedd.worker.outbox import Outbox
from ringfeedd.worker.protocol import Cancel, CopyJob, Dropped, Hello, Jobs, Limit, PairJob, Tuning

NAME: Final = "ringfeed-worker"
"""What ``ps`` and ``top`` call it, however it was started."""

HEARTBEAT_S: Final = 0.5

HURRY_S: Final = 0.1
"""Between two looks at the pairs that the rings wait for."""

DECODE_TURN_S: Final = 0.004
"""Decodes go on for so long, and to the end of the one under way, before the loop looks at the network again."""


class Worker:
    """Carries out the supervisor's orders until it is told to stop or the supervisor is gone.

    What it has to do stands in its backlog. The downloader and the decoder do it; their answers go to the outbox.
    """

    def __init__(
        self,
        hello: Hello,
        source: Source,
        writer: asyncio.StreamWriter,
        *,
        make_client: Callable[..., StoreClient] = StoreClient,
        decode: Callable[..., DecodedPair] = decode_pair,
    ) -> None:
        """Map all that it works on; `run` begins.

        Args:
            make_client: makes what requests are sent with.
            decode: decodes one pair into rows.
        """
        self._loop = asyncio.get_running_loop()
        self._vitals = memoryview(mmap.mmap(hello.vitals_fd, vital_bytes(len(hello.rings)))).cast("Q")
        self._backlog = Backlog(len(hello.rings))
        self._downloader = Downloader(
            hello,
            source,
            self._vitals,
            self._backlog,
            on_arrived=self._arrived,
            on_failed=self._failed,
            make_client=make_client,
        )
        self._decoder = Decoder(hello, self._vitals, decode)
        self._outbox = Outbox(writer, [ring.slots for ring in hello.rings], self._downloader.report)
        self._decoded = Histogram(DECODE_BOUNDS_S, self._vitals, DECODE_WORDS)
        self._decoding = False
        self._busy_s = self._busy_since = 0.0

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Work until told to stop."""
        limit_own_memory(self._decoder.memory)  # all rings are mapped, and nothing is fetched yet
        self._beat()
        self._hurry()
        while (order := await messages.read_order(reader)) is not None:
            match order:
                case Jobs(ring, jobs, copies):
                    self._take(ring, jobs, copies)
                case Limit(ring, limit):
                    self._backlog.raise_limit(ring, limit)
                    if self._backlog.decodable:
                        self._decode_soon()
                case Cancel(ring, below):
                    self._cancel(ring, below)
                case Tuning():
                    self._downloader.retune(order)
                case _:
                    return

    def _take(self, ring: int, jobs: list[PairJob], copies: list[CopyJob]) -> None:
        for job in jobs:
            self._backlog.add(ring, job, at_hand=self._decoder.read_ahead(job))
        self._backlog.add_copies(ring, copies)
        if self._backlog.decodable:
            self._decode_soon()
        if jobs:
            self._downloader.pump()

    def _cancel(self, ring: int, below: int) -> None:
        """Answer for pairs that are no longer wanted; their slots are not written."""
        dropped, copies = self._backlog.cancel(ring, below)
        for seq in copies:
            self._outbox.add(Dropped(ring, seq))
        self._drop(dropped)

    def _drop(self, pairs: list[PendingPair]) -> None:
        for pair in pairs:
            self._outbox.add(Dropped(pair.ring, pair.seq, pair.retries))
        self._downloader.cancel(pairs)

    def _beat(self) -> None:
        self._vitals[HEARTBEAT_WORD] += 1
        self._vitals[CPU_NS_WORD] = time.process_time_ns()
        self._outbox.look()
        self._downloader.look(self._loop.time())
        self._loop.call_later(HEARTBEAT_S, self._beat)

    def _hurry(self) -> None:
        self._downloader.hurry()
        if back := self._downloader.limit_backlog():
            self._drop(back)
        if self._decoding:
            now = self._loop.time()
            self._busy_s += now - self._busy_since
            self._busy_since = now
        self._vitals[BUSY_NS_WORD] = int(1e9 * self._busy_s)
        self._loop.call_later(HURRY_S, self._hurry)

    def _arrived(self, pair: PendingPair) -> None:
        if self._backlog.at_hand(pair):
            self._decode_soon()

    def _failed(self, pair: PendingPair, error: BadPairError) -> None:
        self._backlog.remove(pair)
        self._outbox.add(pair.failed(error))

    # Decoding.

    def _decode_soon(self) -> None:
        if not self._decoding:
            self._decoding = self._outbox.busy = True
            self._busy_since = now = self._loop.time()
            self._downloader.decoder_is_busy(now)
            self._loop.call_soon(self._decode_some)

    def _decode_some(self) -> None:
        """What the network has brought meanwhile, and the supervisor, come in between."""
        now = self._loop.time()
        end = now + DECODE_TURN_S
        try:
            while now < end and (following := self._backlog.next_decode()) is not None:
                began = now
                if isinstance(following, CopyRun):
                    self._outbox.add_copied(following.ring, *self._decoder.copy(following))
                    now = self._loop.time()
                else:
                    self._decode(following)
                    now = self._loop.time()
                    self._decoded.add(now - began)
        finally:
            if self._backlog.decodable:
                self._loop.call_soon(self._decode_some)
            else:
                self._decoding = self._outbox.busy = False
                self._busy_s += now - self._busy_since
                self._downloader.decoder_is_idle(now)

    def _decode(self, pair: PendingPair) -> None:
        job = pair.job
        if pair.fetched is None and not self._decoder.read(pair, job):
            self._backlog.download(pair)
            self._downloader.pump()
            return
        assert pair.fetched is not None
        self._backlog.remove(pair)
        self._outbox.add(self._decoder.decode(pair, job, pair.fetched))
        if self._decoder.disk_error:
            self._outbox.disk_error, self._decoder.disk_error = self._decoder.disk_error, ""


def main(
    fd: int,
    *,
    make_client: Callable[..., StoreClient] = StoreClient,
    decode: Callable[..., DecodedPair] = decode_pair,
) -> None:
    """Run the worker on an inherited socket, and leave without waiting for anything.

    Args:
        make_client, decode: see `Worker`.
    """
    ignore(ORDERS)
    keep_freed_memory()
    quiet_codecs()
    asyncio.run(_run_then_exit(socket.socket(fileno=fd), make_client, decode))


async def _run_then_exit(
    connection: socket.socket, make_client: Callable[..., StoreClient], decode: Callable[..., DecodedPair]
) -> None:
    code = 1
    try:
        reader, writer = await asyncio.open_connection(sock=connection)
        hello = await messages.read_order(reader)
        if isinstance(hello, Hello):  # else the supervisor went before it had said anything
            name_process(NAME)
            source = await _open_source(hello)
            await Worker(hello, source, writer, make_client=make_client, decode=decode).run(reader)
        code = 0
    except BaseException as error:  # noqa: BLE001  # the last sentence of a dying process
        with contextlib.suppress(OSError):
            sys.stderr.write(f"ringfeed worker {os.getpid()}: {type(error).__name__}: {error}\n")
    os._exit(code)  # a thread that reads from a disk which hangs must not keep the process


async def _open_source(hello: Hello) -> Source:
    policy = hello.tuning.policy
    settings = StoreSettings(
        concurrency=hello.tuning.most_concurrency,
        emulator=hello.emulator,
        read_timeout_s=policy.read_timeout_s,
        transport=policy.transport,
        user_project=policy.user_project,
    )
    return await open_source(hello.root, settings)


if __name__ == "__main__":
    main(int(sys.argv[1]))
