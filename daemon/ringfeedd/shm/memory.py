"""The daemon's side of one ring's shared memory: complete before a process can find it, unlinked only by its maker."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ringfeed.plan import Place
from ringfeed.shm import layout, segment
from ringfeed.shm.counters import DaemonCounts, Lately, RingCounts, StoreCounts, words
from ringfeed.shm.descriptor import Descriptor, ServedCatalog, remove_descriptor, write_descriptor
from ringfeed.shm.lane import Accepted, LanePage, Refused
from ringfeed.shm.layout import (
    DAEMON_LOCK_BYTE,
    FIRST_LANE_LOCK_BYTE,
    PAGE_BYTES,
    SLOT_VALID,
    WORD_BYTES,
    Geometry,
    Header,
    Lane,
    RingState,
    SlotRecord,
    State,
)
from ringfeed.shm.semaphore import Doorbell, semaphore_path, unlink_doorbell
from ringfeedd.errors import StartError

_READ_ONLY: Final = 0o640
_MOST_IN_A_WORD: Final = (1 << 64) - 1
"""What a group's members may do to pixels and descriptor. They write the control segment, and ring doorbells."""


@dataclass(frozen=True, slots=True)
class Access:
    """The users who may attach: the files' mode, and their group where one is configured."""

    mode: int = 0o600
    gid: int = -1


class RingMemory:
    """The two segments, the doorbells and the descriptor of one generation of a ring."""

    def __init__(self, descriptor: Descriptor, access: Access) -> None:
        """Reserve the memory. No process can find it before `announce`.

        Raises:
            StartError: there is too little memory in /dev/shm; nothing is left behind.
        """
        geometry = descriptor.geometry
        self.descriptor = replace(descriptor, generation=secrets.token_hex(8))
        self.geometry: Geometry = geometry
        self.access = access
        self._made = contextlib.ExitStack()
        self._half_made = contextlib.ExitStack()
        self._announced: os.stat_result | None = None
        self._bell_files: dict[Path, os.stat_result] = {}
        free = free_bytes()
        try:
            self._create()
        except BaseException as error:
            self.unlink()
            self._half_made.close()
            if not isinstance(error, OSError):
                raise
            if error.errno == errno.ENOSPC and reserved_bytes(geometry) > free:
                raise not_enough_memory(reserved_bytes(geometry), free, descriptor.ring) from error
            raise StartError(
                f"could not create the ring {descriptor.ring!r} in /dev/shm: {error.strerror or error}; `df` and "
                f"`df -i` of /dev/shm tell what is left of its bytes and of its files"
            ) from error
        self._half_made.pop_all()  # from here on `give_back` closes them

    def _create(self) -> None:
        descriptor, geometry, access = self.descriptor, self.geometry, self.access
        ring, generation = descriptor.ring, descriptor.generation
        # Nothing has a name before it is complete: a daemon that is killed meanwhile leaves nothing, and a control
        # segment without this header is not a daemon's. That is named first and removed last, so what belongs to it can
        # be told from a stranger's file at any moment.
        with contextlib.ExitStack() as nameless:
            data = segment.reserve(geometry.data_bytes, mode=access.mode & _READ_ONLY, gid=access.gid)
            nameless.callback(os.close, data)
            control = segment.reserve(geometry.control_bytes, mode=access.mode, gid=access.gid)
            nameless.callback(os.close, control)
            segment.write_all(control, _header(descriptor))
            self._lock_fd = self._name(control, descriptor.control)
            self._half_made.callback(os.close, self._lock_fd)
            self.data_fd = self._name(data, descriptor.data)
            self._half_made.callback(os.close, self.data_fd)
        segment.try_lock(self._lock_fd, DAEMON_LOCK_BYTE)
        # A mapping holds a duplicate of its descriptor, and so of its locks: it gets an open file of its own.
        control_fd = segment.open_existing(descriptor.control, writable=True)
        try:
            self._bytes = segment.map_bytes(control_fd, 0, geometry.control_bytes, writable=True)
        finally:
            os.close(control_fd)
        self._words = self._bytes.cast("Q")
        # For its own words the daemon uses what it remembers: a member of the group may have written others.
        self._posted = [0] * geometry.lanes
        self._refreshes = self._refreshes_taken = 0
        self._first_record = geometry.slot_table_offset // WORD_BYTES
        self._first_id = geometry.id_table_offset
        self.lanes = [
            LanePage(self._bytes[offset : offset + PAGE_BYTES])
            for offset in map(geometry.lane_offset, range(geometry.lanes))
        ]
        first, step = geometry.lanes_offset // WORD_BYTES, PAGE_BYTES // WORD_BYTES
        self._nonces = self._words[first + Lane.NONCE // WORD_BYTES :: step]  # all of them are looked at in each turn
        names = [layout.space_name(ring, generation)]
        names += [layout.lane_bell_name(ring, generation, lane) for lane in range(geometry.lanes)]
        bells = []
        for name in names:
            self._made.callback(unlink_doorbell, name)
            bells.append(Doorbell.create(name, mode=access.mode, gid=access.gid))
            path = semaphore_path(name)
            self._bell_files[path] = path.lstat()
        self.space, *self._lane_bells = bells
        self.set(State.STARTED_NS, time.monotonic_ns())
        self.set(State.STATE, RingState.STARTING)

    def _name(self, nameless: int, name: str) -> int:
        fd = segment.give_name(nameless, name)
        self._made.callback(segment.shm_path(name).unlink, missing_ok=True)
        return fd

    def announce(self) -> None:
        """Let consumers find the ring.

        Raises:
            StartError: the descriptor could not be written.
        """
        try:
            self._write_descriptor()
        except OSError as error:
            path = segment.shm_path(layout.descriptor_name(self.descriptor.ring))
            raise StartError(
                f"could not write {path}: {error.strerror or error}; make room in /dev/shm, and start again"
            ) from error

    def announce_catalogs(self, catalogs: tuple[ServedCatalog, ...], base: Place) -> None:
        """Tell consumers what is served from which epoch on; before anything of a changed epoch is published.

        Args:
            base: a place from which on the catalogs' lengths hold.
        """
        changes = self.descriptor.catalog_changes + 1
        self.descriptor = replace(self.descriptor, catalogs=catalogs, catalog_changes=changes, base=base)
        self._write_descriptor()
        self.set(State.CATALOG_CHANGES, changes)

    def _write_descriptor(self) -> None:
        written = write_descriptor(self.descriptor, mode=self.access.mode & _READ_ONLY, gid=self.access.gid)
        if self._announced is None:
            self._made.callback(self._remove_descriptor)
        self._announced = written

    def _remove_descriptor(self) -> None:
        assert self._announced is not None
        remove_descriptor(self.descriptor.ring, self._announced)

    def tell_refresh(self, outcome: str) -> None:
        """Say what came, or will come, of the latest refresh."""
        self.set_text(State.REFRESH, State.REFRESH_LENGTH, outcome, layout.REASON_BYTES)

    def end_refresh(self, outcome: str, *, taken: bool) -> None:
        """Say that a refresh's listing came to its end, and whether it is served, or will be."""
        self.tell_refresh(outcome)
        self._refreshes_taken += taken
        self._refreshes += 1
        self.set(State.REFRESHES_TAKEN, self._refreshes_taken)
        self.set(State.REFRESHES, self._refreshes)

    def set(self, offset: int, value: int) -> None:
        """Write one of the words of `State`; what no word holds becomes the nearest number that it holds.

        Readers' words are in some of the sums: none of them may end the daemon.
        """
        self._words[offset >> 3] = min(max(value, 0), _MOST_IN_A_WORD)

    def set_text(self, offset: int, length_offset: int, text: str, most: int) -> None:
        """Write one of the texts of `State`, up to ``most`` bytes of it."""
        encoded = text.encode(errors="replace")[:most]
        self._bytes[offset : offset + len(encoded)] = encoded
        self.set(length_offset, len(encoded))

    def count(self, *counts: RingCounts | DaemonCounts | StoreCounts | Lately) -> None:
        """Write what was counted."""
        for each in counts:
            for offset, value in words(each):
                self.set(offset, value)

    def fail(self, reason: str) -> None:
        """Say that the ring has stopped for good, and why."""
        self.set_text(State.REASON, State.REASON_LENGTH, reason, layout.REASON_BYTES)
        self.set(State.STATE, RingState.FAILED)

    def write_record(
        self, seq: int, *, index: int, valid: bool, sizes: tuple[int, int, int, int], pair_id: bytes
    ) -> None:
        """Describe the pair in the slot of ``seq``.

        Args:
            sizes: image height and width, label height and width, in pixels.
        """
        slot = seq % self.geometry.slots
        offset = self._first_id + slot * layout.ID_BYTES
        self._bytes[offset : offset + len(pair_id)] = pair_id
        # One store a word: a record is written for each pair, and this costs a fifth of a row of a numpy array.
        words, record = self._words, self._first_record + slot * SlotRecord.WORDS
        words[record + SlotRecord.SEQ] = seq
        words[record + SlotRecord.PAIR_INDEX] = index
        words[record + SlotRecord.FLAGS] = SLOT_VALID if valid else 0
        words[record + SlotRecord.IMAGE_HEIGHT] = sizes[0]
        words[record + SlotRecord.IMAGE_WIDTH] = sizes[1]
        words[record + SlotRecord.LABEL_HEIGHT] = sizes[2]
        words[record + SlotRecord.LABEL_WIDTH] = sizes[3]
        words[record + SlotRecord.ID_LENGTH] = len(pair_id)

    def answer(self, lane: int, answer: Accepted | Refused, nonce: int) -> None:
        """Answer the request with this nonce on ``lane``, and ring its bell."""
        self._posted[lane] = 0
        self.lanes[lane].write_answer(answer, nonce)
        self.ring_lane(lane, 1)

    def nonces(self) -> list[int]:
        """`Lane.NONCE` of every lane, as they stand now."""
        return self._nonces.tolist()

    def ring_lane(self, lane: int, count: int) -> None:
        """Tell the consumer on ``lane`` of ``count`` more batches."""
        bell = self._lane_bells[lane]
        self._posted[lane] += count
        self.lanes[lane][Lane.POSTED] = self._posted[lane]
        for _ in range(count):
            bell.ring()

    def ring_all(self) -> None:
        """Wake every consumer, to look at the ring's state."""
        for bell in self._lane_bells:
            bell.ring()

    def lane_lives(self, lane: int) -> bool:
        """Whether a process holds the lane's lock."""
        return segment.is_locked(self._lock_fd, FIRST_LANE_LOCK_BYTE + lane)

    def any_lane_lives(self) -> bool:
        """Whether a process holds any lane's lock."""
        return any(self.lane_lives(lane) for lane in range(self.geometry.lanes))

    def removed(self) -> list[str]:
        """The names of this generation that are no longer in /dev/shm, or are other files' by now."""
        descriptor = self.descriptor
        gone = [
            name
            for name, fd in ((descriptor.control, self._lock_fd), (descriptor.data, self.data_fd))
            if not segment.is_still(name, fd)
        ]
        gone += [path.name for path, facts in self._bell_files.items() if not _is_still(path, facts)]
        announced = segment.shm_path(layout.descriptor_name(descriptor.ring))
        if self._announced is not None and not _is_still(announced, self._announced):
            gone.append(announced.name)
        return gone

    def unlink(self) -> None:
        """Remove every name that this object made; consumers keep what they have mapped."""
        self._made.close()

    @property
    def lock_fd(self) -> int:
        """The control segment's open file description that carries the daemon's lock."""
        return self._lock_fd

    def give_back(self) -> None:
        """Let the pixels and the daemon's lock go, once no worker writes: consumers keep what they have mapped."""
        os.close(self.data_fd)
        os.close(self._lock_fd)

    def __repr__(self) -> str:
        descriptor = self.descriptor
        return f"RingMemory({descriptor.ring!r}, generation {descriptor.generation}, {self.geometry.slots} slots)"


def _header(descriptor: Descriptor) -> bytes:
    """Return the first words of a control segment."""
    geometry = descriptor.geometry
    words = {
        Header.MAGIC: layout.MAGIC,
        Header.LAYOUT_VERSION: layout.LAYOUT_VERSION,
        Header.GENERATION: int(descriptor.generation, 16),
        Header.CONTROL_BYTES: geometry.control_bytes,
        Header.DATA_BYTES: geometry.data_bytes,
        Header.SLOTS: geometry.slots,
        Header.LANES: geometry.lanes,
    }
    return b"".join(
        words[offset].to_bytes(WORD_BYTES, "little") for offset in range(0, len(words) * WORD_BYTES, WORD_BYTES)
    )


def _is_still(path: Path, facts: os.stat_result) -> bool:
    return segment.names_inode(path, facts.st_dev, facts.st_ino)


def reserved_bytes(geometry: Geometry) -> int:
    """Bytes that a ring takes in /dev/shm: its segments, and a page each for its doorbells and its descriptor."""
    return geometry.total_bytes + (geometry.lanes + 2) * mmap.PAGESIZE


def free_bytes() -> int:
    """Bytes that this user can still reserve in /dev/shm."""
    facts = os.statvfs(layout.SHM_DIR)
    return facts.f_bavail * facts.f_frsize


def not_enough_memory(wanted: int, free: int, what: str) -> StartError:
    """The error for rings that do not fit into /dev/shm; sizes in bytes."""
    return StartError(
        f"{what} needs {wanted} bytes ({wanted / 2**20:.0f} MiB) in /dev/shm, and {free} bytes "
        f"({free / 2**20:.0f} MiB) are free; use fewer --slots or a smaller --size, or enlarge it: `docker run "
        f"--shm-size={-(-wanted // 2**30) + 1}g`, or `mount -o remount,size={-(-wanted // 2**30) + 1}g /dev/shm`"
    )
