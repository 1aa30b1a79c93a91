"""The least work that the task needs: what any loader of these pairs has to do, and nothing else.

Raw sockets that are kept open and asked ahead, the fastest exact codecs, straight into shared memory that is warm, one
semaphore a batch. No retries, no checksums, no order that survives anything; TLS where the store has it. Run by the
benchmark; imports no part of Ringfeed's, and runs in the peers' environment as well.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import ssl
import struct
import sys
import uuid
from collections.abc import Generator, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
import posix_ipc

from ringfeedd.bench.codecs import DECODERS
from ringfeedd.bench.contender import Delivered, Task, deliver

RING_BATCHES: Final = 8
ASKED_AHEAD_PAIRS: Final = 16
RECEIVE_BYTES: Final = 1 << 20
STALL_S: Final = 30
"""A process that waits this long ends with a sentence, and all others with it. The kernel counts."""

_HEADER_END: Final = b"\r\n\r\n"
_PR_SET_PDEATHSIG: Final = 1


class Connection:
    """One kept-open connection, asked ahead of what is read; answers come in the order of the questions."""

    def __init__(self, url: str, bucket: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", STALL_S, 0))
        if address.scheme == "https":
            context = ssl.create_default_context()  # certificates of SSL_CERT_FILE
            self._socket = context.wrap_socket(self._socket, server_hostname=address.hostname)
        self._bucket = bucket
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0

    def ask(self, names: list[str]) -> None:
        """Send requests."""
        asked = "".join(f"GET /{self._bucket}/{name} HTTP/1.1\r\nHost: a\r\n\r\n" for name in names)
        self._socket.sendall(asked.encode())

    def answer(self, size: int) -> memoryview:
        """The next object, of which the size is known; to be used before the next call."""
        while (found := self._buffer.find(_HEADER_END, self._begin, self._end)) < 0:
            self._receive()
        ahead = found + len(_HEADER_END) - self._begin
        if not self._buffer.startswith(b"HTTP/1.1 200", self._begin):
            raise RuntimeError(f"the store answers {self._buffer[self._begin : self._begin + 80]!r}")
        while self._end - self._begin < ahead + size:
            self._receive()
        body = self._view[self._begin + ahead : self._begin + ahead + size]
        self._begin += ahead + size
        return body

    def _receive(self) -> None:
        if len(self._buffer) - self._end < RECEIVE_BYTES // 4:
            rest = self._end - self._begin
            self._view[:rest] = bytes(self._view[self._begin : self._end])
            self._begin, self._end = 0, rest
        try:
            received = self._socket.recv_into(self._view[self._end :])
        except (BlockingIOError, ssl.SSLWantReadError):
            raise TimeoutError(f"the store has sent nothing for {STALL_S} s") from None
        if not received:
            raise RuntimeError("the store closed the connection")
        self._end += received


class Kept:
    """Decoded pairs that all workers share: the least that a cache can be. Each row is filled by whichever comes first.

    Two workers may fill a row at a time; both write the same bytes.
    """

    def __init__(self, task: Task) -> None:
        """Map memory for every pair; all of it is touched before anything is timed."""
        self._rows = {entry["id"]: row for row, entry in enumerate(task.entries())}
        pixels = len(self._rows) * task.height * task.width
        memory = mmap.mmap(-1, 4 * pixels + len(self._rows))
        shape = (len(self._rows), task.height, task.width)
        self._image = np.ndarray((*shape, 3), np.uint8, memory)
        self._label = np.ndarray(shape, np.uint8, memory, offset=3 * pixels)
        self._there = np.ndarray(len(self._rows), np.bool_, memory, offset=4 * pixels)
        self._image.fill(0)
        self._label.fill(0)

    def copy(self, pair_id: str, image: np.ndarray[Any, Any], label: np.ndarray[Any, Any]) -> bool:
        """Copy a pair into a slot, if it is there."""
        row = self._rows[pair_id]
        if not self._there[row]:
            return False
        np.copyto(image, self._image[row])
        np.copyto(label, self._label[row])
        return True

    def keep(self, pair_id: str, image: np.ndarray[Any, Any], label: np.ndarray[Any, Any]) -> None:
        """Keep a slot's pair."""
        row = self._rows[pair_id]
        np.copyto(self._image[row], image)
        np.copyto(self._label[row], label)
        self._there[row] = True


class Floor:
    """The shared memory, and who may use which part of it when."""

    def __init__(self, task: Task) -> None:
        """Map the memory and make the semaphores; nothing of either has a name that could stay behind."""
        self.task = task
        self.workers = int(task.settings.get("workers") or os.cpu_count() or 1)
        self.consumers = int(task.settings.get("consumers", 1))
        slots = RING_BATCHES * self.workers * task.batch_size
        image_shape, label_shape = (slots, task.height, task.width, 3), (slots, task.height, task.width)
        memory = mmap.mmap(-1, int(np.prod(image_shape)) + int(np.prod(label_shape)))
        self.image = np.ndarray(image_shape, np.uint8, memory)
        self.label = np.ndarray(label_shape, np.uint8, memory, offset=self.image.nbytes)
        self.image.fill(0)  # warm: every page is there before anything is timed
        self.label.fill(0)
        self.kept = Kept(task) if task.settings.get("cache") else None
        self.ready = [[_semaphore(0) for _ in range(self.workers)] for _ in range(self.consumers)]
        self.ended = np.ndarray(self.consumers, np.bool_, mmap.mmap(-1, self.consumers))
        self.free = [[_semaphore(RING_BATCHES) for _ in range(self.workers)] for _ in range(self.consumers)]

    def slots(self, batch: int) -> slice:
        """Where a batch lies."""
        first = batch % (RING_BATCHES * self.workers) * self.task.batch_size
        return slice(first, first + self.task.batch_size)

    def entries(self, worker: int) -> Iterator[dict[str, Any]]:
        """The pairs of one worker: every so-many-th batch of the order that all share."""
        for number, entry in enumerate(self.task.endless_order()):
            if number // self.task.batch_size % self.workers == worker:
                yield entry

    def work(self, worker: int) -> None:
        """Fetch and decode one worker's batches, without end."""
        decode_image, decode_label = DECODERS[self.task.settings.get("codec", "fast")]
        connection = Connection(self.task.url, self.task.bucket)
        entries = self.entries(worker)
        asked: list[dict[str, Any]] = []
        batch = worker
        while True:
            slots = self.slots(batch)
            for consumer in range(self.consumers):
                if not self.ended[consumer]:
                    self.free[consumer][worker].acquire(STALL_S)
            for slot in range(slots.start, slots.stop):
                if self.kept is not None:
                    pair = next(entries)
                    if self.kept.copy(pair["id"], self.image[slot], self.label[slot]):
                        continue
                    connection.ask([f"images/{pair['id']}.jpg", f"labels/{pair['id']}.png"])
                    decode_image(connection.answer(pair["image_bytes"]), self.image[slot])
                    decode_label(connection.answer(pair["label_bytes"]), self.label[slot])
                    self.kept.keep(pair["id"], self.image[slot], self.label[slot])
                    continue
                if len(asked) <= ASKED_AHEAD_PAIRS // 2:
                    more = [next(entries) for _ in range(ASKED_AHEAD_PAIRS)]
                    names = [name for one in more for name in (f"images/{one['id']}.jpg", f"labels/{one['id']}.png")]
                    connection.ask(names)
                    asked += more
                pair = asked.pop(0)
                decode_image(connection.answer(pair["image_bytes"]), self.image[slot])
                decode_label(connection.answer(pair["label_bytes"]), self.label[slot])
            for consumer in range(self.consumers):
                self.ready[consumer][worker].release()
            batch += self.workers

    def batches(self, consumer: int) -> Generator[Delivered, None, None]:
        """What one consumer gets: everything."""
        order = (entry["id"] for entry in self.task.endless_order())
        batch = 0
        try:
            while True:
                worker = batch % self.workers
                self.ready[consumer][worker].acquire(STALL_S)
                slots = self.slots(batch)
                yield Delivered(
                    self.image[slots], self.label[slots], lambda: [next(order) for _ in range(self.task.batch_size)]
                )
                self.free[consumer][worker].release()
                batch += 1
        finally:  # another consumer, which began later, may want more
            self.ended[consumer] = True
            for free in self.free[consumer]:
                free.release()


def _semaphore(value: int) -> posix_ipc.Semaphore:
    semaphore = posix_ipc.Semaphore(f"/floor-{uuid.uuid4().hex}", posix_ipc.O_CREX, initial_value=value)
    semaphore.unlink()
    return semaphore


def _fork(run: Any, *arguments: Any) -> int:  # noqa: ANN401  # whatever `run` takes
    """A child that runs one function, and dies with its parent."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        run(*arguments)
        code = 0
    except BaseException as error:  # noqa: BLE001  # a forked child must not run on into its parent's code
        sys.stderr.write(f"floor {os.getpid()}: {type(error).__name__}: {error}\n")
    os._exit(code)


def main() -> int:
    """One process a core works, and as many as the task says consume."""
    task = Task.from_argument()
    floor = Floor(task)
    task.roots["floor"] = os.getpid()
    workers = [_fork(floor.work, number) for number in range(floor.workers)]
    consumers = {
        _fork(lambda n: deliver(task, floor.batches(n), own=False), number) for number in range(floor.consumers)
    }
    try:
        while consumers:
            pid, status = os.wait()
            if pid in workers or status:
                return 1
            consumers.discard(pid)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
