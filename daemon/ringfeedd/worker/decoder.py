"""Pixels into slots: decodes a pair's bytes, or copies its row of the memory tier; reads and fills the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ringfeed.shm import segment
from ringfeed.shm.layout import page_ceil
from ringfeedd.cache.rows import RowBytes, RowGeometry, Rows, as_bytes
from ringfeedd.cache.segments import Entry, SegmentReader, SegmentWriter, WrongEntryError
from ringfeedd.decode.memory import worker_bytes
from ringfeedd.decode.pair import Decoded as DecodedPair
from ringfeedd.decode.pair import decode_pair
from ringfeedd.errors import BadPairError, encodable
from ringfeedd.fetch.policy import Fetched
from ringfeedd.worker.backlog import CopyRun, PendingPair
from ringfeedd.worker.heartbeat import SUSPECT_RING_SHIFT, SUSPECT_WORD
from ringfeedd.worker.protocol import Decoded, Hello, PairJob, Result, RingSpec


class SlotRows:
    """One ring's rows, writable."""

    def __init__(self, spec: RingSpec) -> None:
        """Map the data segment. Raises: OSError: it cannot be mapped."""
        self.spec = spec
        decode = spec.decode
        self._image = self._map(spec.image_offset, decode.image_row_shape, "uint8")
        self._label = self._map(spec.label_offset, decode.label_row_shape, str(decode.label_dtype))
        self._image_bytes, self._label_bytes = as_bytes(self._image), as_bytes(self._label)

    def _map(self, offset: int, row_shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        shape = (self.spec.slots, *row_shape)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        view = segment.map_region(self.spec.data_fd, offset, page_ceil(size), writable=True, twice=False)
        return np.ndarray(shape, dtype, buffer=view)

    def rows(self, seq: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return image and label row of the slot of ``seq``."""
        slot = seq % self.spec.slots
        return self._image[slot], self._label[slot]

    def row_bytes(self, seq: int) -> tuple[RowBytes, RowBytes]:
        """Return the same rows as bytes."""
        slot = seq % self.spec.slots
        return self._image_bytes[slot], self._label_bytes[slot]


class Decoder:
    """Writes pairs into their slots; the pair under way stands in a vital word, in case it ends the process.

    Attributes:
        memory: bytes that this process may use besides what it has mapped here.
        disk_error: why the latest pair could not be stored on disk; to be told, and cleared, by the caller.
    """

    def __init__(self, hello: Hello, vitals: memoryview, decode: Callable[..., DecodedPair] = decode_pair) -> None:
        """Map the rings and the cache.

        Args:
            decode: decodes one pair, see `decode_pair`.
        """
        self._vitals, self._decode = vitals, decode
        self._rings = [SlotRows(spec) for spec in hello.rings]
        self._cached_rows = _map_cache(hello)
        self._disk = None if hello.disk is None else (SegmentReader(hello.disk), SegmentWriter(hello.disk))
        self.memory = worker_bytes([spec.decode for spec in hello.rings])
        self.disk_error = ""

    def read_ahead(self, job: PairJob) -> bool:
        """Have the kernel read a pair's entry of the disk tier; return False if the pair is to be downloaded."""
        if job.disk is None or job.disk.place < 0 or self._disk is None:
            return False
        self._disk[0].read_ahead(job.disk.place, job.disk.size)
        return True

    def read(self, pair: PendingPair, job: PairJob) -> bool:
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

    def decode(self, pair: PendingPair, job: PairJob, fetched: Fetched) -> Result:
        """Decode a pair into its slot, and keep it where its job says; return the answer."""
        try:
            return self._decode_into_slot(pair, job, fetched)
        except BadPairError as error:
            return pair.failed(error)
        except MemoryError:
            return pair.failed(BadPairError(self._no_memory, cause="memory"))
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one pair, not the worker
            return pair.failed(BadPairError(encodable(f"{type(error).__name__}: {error}"), cause="internal"))

    def copy(self, run: CopyRun) -> tuple[list[int], list[int]]:
        """Copy rows of the memory tier into their slots.

        Returns:
            Numbers of the pairs that were copied; of those whose row is not whole, of which nothing was copied.
        """
        assert self._cached_rows is not None
        rows, ring, vitals = self._cached_rows, self._rings[run.ring], self._vitals
        whole: list[int] = []
        wrong: list[int] = []
        for copy in run.copies:
            seq, row = copy.seq, copy.row
            vitals[SUSPECT_WORD] = run.ring << SUSPECT_RING_SHIFT | seq + 1
            if copy.total and rows.sum(row) != copy.total:
                wrong.append(seq)
            else:
                rows.copy(row, *ring.row_bytes(seq))
                whole.append(seq)
        vitals[SUSPECT_WORD] = 0
        return whole, wrong

    def _decode_into_slot(self, pair: PendingPair, job: PairJob, fetched: Fetched) -> Decoded:
        self._vitals[SUSPECT_WORD] = pair.ring << SUSPECT_RING_SHIFT | pair.seq + 1
        rows = self._rings[pair.ring]
        image, label = rows.rows(pair.seq)
        total: int | None = None
        try:
            decoded = self._decode(fetched.image, fetched.label, rows.spec.decode, image, label)
            if job.row >= 0 and self._cached_rows is not None:
                total = self._cached_rows.fill(job.row, *rows.row_bytes(pair.seq))
        finally:
            self._vitals[SUSPECT_WORD] = 0
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
            None if pair.from_disk else self._store(job, fetched),
            total,
        )

    def _store(self, job: PairJob, fetched: Fetched) -> Entry | None:
        """Store a pair in the disk tier, if it is to be."""
        if job.disk is None or not job.disk.store or self._disk is None:
            return None
        try:
            return self._disk[1].append(job.disk.pair_id, job.disk.version, fetched.image, fetched.label)
        except OSError as error:
            self.disk_error = encodable(error.strerror or str(error))
            return None

    @property
    def _no_memory(self) -> str:
        return (
            f"there was no memory for it: a worker may use {self.memory >> 20} MiB besides the rings, which is more "
            f"than max_pixels needs; look at the object, and at how much memory the machine has left"
        )


def _map_cache(hello: Hello) -> Rows | None:
    if hello.memory is None:
        return None
    return Rows(hello.memory, RowGeometry.of(hello.rings[0].decode))  # the same for all rings
