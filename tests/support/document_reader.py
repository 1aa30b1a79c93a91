"""Readers that know `shm_layout.md` and nothing of the package: struct, mmap and fcntl, by the page's own offsets.

`DocumentReader` gives single words to write and read. `Consumer` is the ``r`` of the page's Python blocks, which
`sequences` runs.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import posix_ipc
from document import constants, enumerations, python, tables, timeouts, words


class DocumentReader:
    """A consumer that has opened a ring: its words, its locks, its pixels."""

    def __init__(self, ring: str) -> None:
        self.know(ring)
        self.facts = self.read_descriptor()
        self.open_control()
        self.open_data()

    def know(self, ring: str) -> None:
        """What the page says, before anything is opened."""
        self.ring = ring
        self.constants = constants()
        self.lane_words, self.state_words, self.header_words = (
            words(f"{area} page") for area in ("Lane", "State", "Header")
        )
        self.record_words = words("Slot record")
        areas = {row[0]: row[1] for row in tables("Control segment")[0]}
        self.state_page, self.slot_table = int(areas["state page"]), int(areas["slot table"])
        self.descriptor = Path(f"/dev/shm/ringfeed.{ring}")

    def read_descriptor(self) -> dict[str, Any]:
        return json.loads(self.descriptor.read_text())

    def open_control(self) -> None:
        self.slots, self.lanes = (self.facts["geometry"][key] for key in ("slots", "lanes"))
        self.id_table = self.slot_table + self.pages(64 * self.slots)
        self.lane_pages = self.id_table + self.pages(self.constants["ID_BYTES"] * self.slots)
        self.names = f"ringfeed.{self.ring}.{self.facts['generation']}"
        control = f"/dev/shm/{self.names}.ctl"
        self.lock_fd = os.open(control, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with Path(control).open("r+b") as file:
            self.control = mmap.mmap(file.fileno(), 0)

    def open_data(self) -> None:
        with Path(f"/dev/shm/{self.names}.data").open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def pages(self, size: int) -> int:
        page = self.constants["PAGE_BYTES"]
        return -(-size // page) * page

    def word(self, offset: int) -> int:
        return struct.unpack_from("<Q", self.control, offset)[0]

    def lane_word(self, name: str) -> int:
        return self.word(self.lane_page + self.lane_words[name])

    def set_lane_word(self, name: str, value: int) -> None:
        offset = self.lane_page + self.lane_words[name]
        self.control[offset : offset + 8] = struct.pack("<Q", value)

    def lock(self, byte: int, *, query: bool = False, kind: int = fcntl.F_WRLCK) -> bool:
        request = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
        command = fcntl.F_OFD_GETLK if query else fcntl.F_OFD_SETLK
        return struct.unpack("hhqqi4x", fcntl.fcntl(self.lock_fd, command, request))[0] != fcntl.F_UNLCK

    def ask(self, group: bytes, *, batch_size: int) -> None:
        self.lane_page = self.lane_pages
        assert self.lane_word("ANSWER_NONCE") == 0
        assert self.lock(self.constants["FIRST_LANE_LOCK_BYTE"])
        for name in ("NONCE", "TAKEN", "RELEASED", "LEAVING", "BATCHES", "WAITED_NS", "WAITING_SINCE_NS"):
            self.set_lane_word(name, 0)
        request = {"RANK": 0, "WORLD_SIZE": 1, "BATCH_SIZE": batch_size, "START": 0, "START_EPOCH": 0}
        request |= {"START_POSITION": 0, "FLAGS": 0, "PID": os.getpid(), "GROUP_LENGTH": len(group)}
        for name, value in request.items():
            self.set_lane_word(name, value)
        begin = self.lane_page + self.lane_words["GROUP"]
        self.control[begin : begin + len(group)] = group
        self.set_lane_word("NONCE", 4711)

    def read(self, seq: int) -> tuple[str, bytes, bytes]:
        assert self.word(self.state_page + self.state_words["PUBLISHED"]) > seq
        slot = seq % self.slots
        record = {n: self.word(self.slot_table + 64 * slot + o) for n, o in self.record_words.items()}
        assert (record["SEQ"], record["FLAGS"]) == (seq, self.constants["SLOT_VALID"])
        begin = self.id_table + self.constants["ID_BYTES"] * slot
        rows = []
        for field in (self.facts["geometry"]["image"], self.facts["geometry"]["label"]):
            size = math.prod(field["row_shape"]) * {"uint8": 1, "uint16": 2}[field["dtype"]]
            rows.append(self.data[field["offset"] + slot * size : field["offset"] + (slot + 1) * size])
        return self.control[begin : begin + record["ID_LENGTH"]].decode(), *rows


class NoDaemon(Exception):  # noqa: N818  # the page's words
    """Nothing serves the ring."""


class Words:
    """Words by name: ``r.lane["TAKEN"] = 3``; `GROUP` and `REASON` are text."""

    def __init__(self, reader: Consumer, begin: int, offsets: dict[str, int]) -> None:
        self._reader, self._begin, self._offsets = reader, begin, offsets

    def __getitem__(self, name: str) -> Any:
        offset = self._begin + self._offsets[name]
        if f"{name}_LENGTH" in self._offsets:
            return self._reader.control[offset : offset + self[f"{name}_LENGTH"]].decode()
        return self._reader.word(offset)

    def __setitem__(self, name: str, value: int | str) -> None:
        offset = self._begin + self._offsets[name]
        if isinstance(value, str):
            self._reader.control[offset : offset + len(value)] = value.encode()
        else:
            self._reader.control[offset : offset + 8] = struct.pack("<Q", value)


class Consumer(DocumentReader):
    """What the page's Python blocks call ``r``.

    Args:
        turn: lets the daemon go on while the consumer waits or sleeps; given the seconds.
    """

    def __init__(self, ring: str, turn: Callable[[float], None]) -> None:
        self.know(ring)
        self.turn = turn
        self.clock = 0.0
        self.torn: Callable[[int], None] = lambda seq: None

    def another(self) -> Consumer:
        return Consumer(self.ring, self.turn)

    def read_descriptor(self) -> dict[str, Any]:
        try:
            return super().read_descriptor()
        except FileNotFoundError as error:
            raise NoDaemon from error

    def open_control(self) -> bool:
        try:
            super().open_control()
        except FileNotFoundError:
            return False
        self.state = Words(self, self.state_page, self.state_words)
        return True

    def check_header(self) -> None:
        header = {name: self.word(offset) for name, offset in self.header_words.items()}
        assert header["MAGIC"] == self.constants["MAGIC"]
        assert header["GENERATION"] == int(self.facts["generation"], 16)
        assert header["CONTROL_BYTES"] == len(self.control)

    def open_lane(self, number: int) -> None:
        self.number = number
        self.lane = Words(self, self.lane_pages + number * self.constants["PAGE_BYTES"], self.lane_words)
        self.space = posix_ipc.Semaphore(f"/{self.names}.space")
        self.bell = posix_ipc.Semaphore(f"/{self.names}.lane.{number}")
        while self.take_token():
            pass
        self.open_data()

    def clear(self, offset: int) -> None:
        begin = self.lane_pages + self.number * self.constants["PAGE_BYTES"] + offset
        self.control[begin : begin + 8] = bytes(8)

    def answer_nonce(self, lane: int) -> int:
        page = self.lane_pages + lane * self.constants["PAGE_BYTES"]
        return self.word(page + self.lane_words["ANSWER_NONCE"])

    def locked(self, byte: int) -> bool:
        return self.lock(byte, query=True)

    def try_lock(self, byte: int) -> bool:
        try:
            return self.lock(byte)
        except (BlockingIOError, PermissionError):
            return False

    def unlock(self, byte: int) -> None:
        self.lock(byte, kind=fcntl.F_UNLCK)

    def post(self) -> None:
        self.space.release()

    def take_token(self) -> bool:
        try:
            self.bell.acquire(0)
        except posix_ipc.BusyError:
            return False
        return True

    def wait(self) -> None:
        self.sleep(timeouts()["WAIT_SLICE_S"])
        self.take_token()

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        self.turn(seconds)

    def now(self) -> float:
        return self.clock

    def random(self) -> int:
        return random.randrange(1, 2**64)

    def fence(self) -> None:
        """Nothing to do: CPython reorders no loads, and x86-64 neither."""

    def pair(self, seq: int) -> str:
        pair_id, image, _ = self.read(seq)
        assert set(image) == {int(pair_id.rpartition("/")[2]) % 251}
        return pair_id

    def copy(self, seq: int) -> str:
        slot = seq % self.slots
        begin = self.id_table + self.constants["ID_BYTES"] * slot
        length = self.word(self.slot_table + 64 * slot + self.record_words["ID_LENGTH"])
        pair_id = self.control[begin : begin + length]
        self.torn(seq)
        return pair_id.decode(errors="replace")

    def close(self) -> None:
        if self.lock_fd >= 0:
            os.close(self.lock_fd)
            self.space.close()
            self.bell.close()
            self.lock_fd = -1


class Block(NamedTuple):
    """As the page's `block` returns it."""

    first: int
    count: int
    epoch: int
    position: int
    own: bool
    following: tuple[int, int, int]


def sequences() -> ModuleType:
    """The page's Python blocks as a module."""
    module = ModuleType("shm_layout")
    known: dict[str, object] = {**constants(), **timeouts(), "Block": Block, "NoDaemon": NoDaemon}
    for members in enumerations().values():
        known |= members
    known |= {
        name: type(name, (Exception,), {}) for name in ("Gone", "Refused", "OtherVersion", "Differs", "AttachAgain")
    }
    vars(module).update(known)
    exec(compile(python(), "shm_layout.md", "exec"), vars(module))
    return module
