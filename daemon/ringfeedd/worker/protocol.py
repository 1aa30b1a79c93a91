"""What the supervisor and a worker say to each other: msgpack frames on a socket pair of their own."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from ringfeedd.cache.disk_share import DiskOrder
from ringfeedd.cache.rows import RowsSpec
from ringfeedd.cache.segments import Entry
from ringfeedd.catalog.catalog import Pair
from ringfeedd.decode.spec import DecodeSpec
from ringfeedd.errors import encodable
from ringfeedd.fetch.health import StoreReport
from ringfeedd.fetch.policy import FetchPolicy
from ringfeedd.storage import ObjectInfo

_LENGTH_BYTES: Final = 4


class RingSpec(msgspec.Struct, frozen=True):
    """One ring's data segment and what belongs into its rows.

    Attributes:
        data_fd: the inherited descriptor of the data segment.
        image_offset, label_offset: bytes.
    """

    name: str
    data_fd: int
    slots: int
    image_offset: int
    label_offset: int
    decode: DecodeSpec


class Tuning(msgspec.Struct, tag="tuning", frozen=True):
    """How one worker downloads from now on.

    Attributes:
        concurrency: objects that it downloads at a time.
        most_concurrency: the same where it waits for the store.
    """

    concurrency: int
    most_concurrency: int
    policy: FetchPolicy


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """The first frame: all that a worker needs to know.

    Attributes:
        vitals_fd: an inherited memory file of words that tell, without a message, that it lives and what it decodes.
        witness: an object that some worker could read lately, see `StoreClient`.
        memory: the rows of the memory tier; None for none.
        disk: the folder of the disk tier; None for none.
    """

    root: str
    emulator: str | None
    tuning: Tuning
    rings: list[RingSpec]
    vitals_fd: int = -1
    witness: ObjectInfo | None = None
    memory: RowsSpec | None = None
    disk: str | None = None


class PairJob(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Fetch one pair and decode it into the slot of ``seq``.

    Attributes:
        row: of the memory tier, which is to hold the pair as well; negative for none.
        disk: what the disk tier has to do with it.
    """

    seq: int
    pair: Pair
    row: int = -1
    disk: DiskOrder | None = None


class CopyJob(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Copy a row of the memory tier into the slot of ``seq``.

    Attributes:
        total: the sum that the row must have; 0 where that is known.
    """

    seq: int
    row: int
    total: int


class Jobs(msgspec.Struct, tag="jobs", frozen=True):
    """New work for one ring, in order."""

    ring: int
    jobs: list[PairJob]
    copies: list[CopyJob] = []


class Limit(msgspec.Struct, tag="limit", frozen=True):
    """Pairs below ``limit`` may be decoded into their slots."""

    ring: int
    limit: int


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    """Pairs below ``below`` are no longer wanted; each is answered all the same."""

    ring: int
    below: int


class Stop(msgspec.Struct, tag="stop", frozen=True):
    """End."""


ToWorker = Hello | Jobs | Limit | Cancel | Tuning | Stop


class Decoded(msgspec.Struct, tag=0, array_like=True, frozen=True, gc=False):
    """The pair lies in its slot.

    Attributes:
        sizes: image height and width, label height and width, in pixels.
        size_mismatch: image and label had different sizes.
        downloaded: bytes.
        retries: cause -> downloads that were tried again.
        turn_unsure: the image was turned, and the label may have been drawn on it as it is stored.
        from_disk: the disk tier had it.
        wrong: what the disk tier had was not whole.
        stored: where the disk tier has it now.
        total: the sum of its row in the memory tier; None where it has none.
    """

    ring: int
    seq: int
    sizes: tuple[int, int, int, int]
    size_mismatch: bool
    downloaded: int
    retries: dict[str, int]
    turn_unsure: bool = False
    from_disk: bool = False
    wrong: bool = False
    stored: Entry | None = None
    total: int | None = None


class Failed(msgspec.Struct, tag=1, array_like=True, frozen=True, gc=False):
    """The pair fails to load."""

    ring: int
    seq: int
    reason: str
    cause: str
    attempts: int
    retries: dict[str, int] = {}


class Dropped(msgspec.Struct, tag=2, array_like=True, frozen=True, gc=False):
    """The pair was cancelled, or given back, before it was decoded; its slot is not written."""

    ring: int
    seq: int
    retries: dict[str, int] = {}


Result = Decoded | Failed | Dropped


class Copied(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Pairs of one ring that were copied out of the memory tier.

    Attributes:
        seqs: those that lie in their slots.
        wrong: those whose row was not whole; nothing was copied.
    """

    ring: int
    seqs: list[int]
    wrong: list[int]


class Results(msgspec.Struct, tag="results", frozen=True):
    """What a worker has done since its last frame, and how it fares with the store where that has changed.

    Attributes:
        copied: besides `results`.
        disk_error: why something could not be stored on disk; empty where everything could.
    """

    results: list[Result]
    store: StoreReport | None = None
    copied: list[Copied] = []
    disk_error: str = ""


_ENCODER = msgspec.msgpack.Encoder()
_TO_WORKER = msgspec.msgpack.Decoder(ToWorker)
_FROM_WORKER = msgspec.msgpack.Decoder(Results)


def frame(message: ToWorker | Results) -> bytes:
    """A message as bytes, its length in front."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "little") + body


def frame_of_results(message: Results) -> bytes:
    """Return the frame of a worker's message; a result that cannot be encoded is replaced by a failure that can.

    What cannot be encoded would be lost with all that stands next to it, and the worker would never answer again.
    """
    try:
        return frame(message)
    except (ValueError, OverflowError, TypeError):  # of ValueError: UnicodeEncodeError
        return frame(msgspec.structs.replace(message, results=[_sendable(result) for result in message.results]))


def _sendable(result: Result) -> Result:
    try:
        _ENCODER.encode(result)
    except (ValueError, OverflowError, TypeError) as error:
        reason = encodable(f"its result could not be sent: {type(error).__name__}: {error}")
        return Failed(result.ring, result.seq, reason, "internal", 1)
    return result


async def _read_frame(stream: asyncio.StreamReader) -> bytes | None:
    try:
        header = await stream.readexactly(_LENGTH_BYTES)
        return await stream.readexactly(int.from_bytes(header, "little"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def read_order(stream: asyncio.StreamReader) -> ToWorker | None:
    """The supervisor's next message; None when it is gone."""
    body = await _read_frame(stream)
    return None if body is None else _TO_WORKER.decode(body)


async def read_results(stream: asyncio.StreamReader) -> Results | None:
    """The worker's next message; None when it is gone."""
    body = await _read_frame(stream)
    return None if body is None else _FROM_WORKER.decode(body)
