"""The daemon's side of one ring's shared memory: made whole before anybody can find it, unlinked only by its maker."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ringfeed import layout, segment
from ringfeed.descriptor import Descriptor, ServedCatalog, check_ring_name, remove_descriptor, write_descriptor
from ringfeed.doorbell import Doorbell, unlink_doorbell
from ringfeed.errors import NotTrustedError
from ringfeed.lane import LanePage
from ringfeed.layout import (
    DAEMON_LOCK_BYTE,
    FIRST_LANE_LOCK_BYTE,
    PAGE_BYTES,
    SLOT_VALID,
    Geometry,
    Header,
    Lane,
    RingState,
    SlotRecord,
    State,
    control_name,
    former_name,
)
from ringfeedd.errors import AlreadyRunningError, StartError

_LOCK_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class Access:
    """Who may attach: the files' mode, and their group where one is configured."""

    mode: int = 0o600
    gid: int = -1


class SingletonLock:
    """The right to serve a ring's name. Its file is unlinked by its holder only, at a clean stop."""

    def __init__(self, ring: str, access: Access) -> None:
        """Take it.

        Raises:
            AlreadyRunningError: another daemon has it.
            StartError: the file is not ours to lock.
        """
        check_ring_name(ring)
        self._name = layout.lock_name(ring)
        path = segment.shm_path(self._name)
        for _ in range(_LOCK_TRIES):
            try:
                fd = segment.create(self._name, 0, mode=access.mode, gid=access.gid)
            except FileExistsError:
                try:
                    fd = segment.open_lock(self._name)
                except FileNotFoundError:
                    continue
                except NotTrustedError as error:
                    raise StartError(str(error)) from error
                except PermissionError as error:
                    raise StartError(
                        f"{path} belongs to another user (uid {path.stat().st_uid}), who serves or served the ring "
                        f"{ring!r}; choose another name with --ring"
                    ) from error
            except OSError as error:
                raise StartError(
                    f"could not create {path}: {error.strerror}; is /dev/shm mounted and writable?"
                ) from error
            if not segment.try_lock(fd, DAEMON_LOCK_BYTE):
                os.close(fd)
                raise AlreadyRunningError(
                    f"another daemon serves the ring {ring!r} already (`ringfeed status {ring}` shows it); stop it, or "
                    f"choose another name with --ring"
                )
            # The holder before us may have unlinked the file between our open and our lock.
            if segment.is_still(self._name, fd):
                self._fd = fd
                return
            os.close(fd)
        raise StartError(f"{path} changes hands all the time; is something starting daemons in a loop?")

    def release(self) -> None:
        """Unlink the file, then let the next one in."""
        if self.held:  # else it was removed, and what lies there now is another daemon's
            segment.shm_path(self._name).unlink(missing_ok=True)
        os.close(self._fd)

    @property
    def held(self) -> bool:
        """Whether the lock's file is still where the next daemon looks for it."""
        return segment.is_still(self._name, self._fd)


def clear_leavings(ring: str, keep: frozenset[str] = frozenset()) -> list[str]:
    """Unlink what a dead daemon left under this ring's name; only its singleton lock's holder may call this.

    Args:
        keep: generations whose control segment and descriptor stay, since their consumers are still to come.

    Raises:
        AlreadyRunningError: a daemon lives whose lock file somebody removed.
        StartError: something there is another user's, or nothing that a daemon makes; then nothing is removed.
    """
    files = re.compile(re.escape(f"{layout.PREFIX}{ring}.") + r"([0-9a-f]{16})\.(ctl|data|draft|former)")
    bells = re.compile(re.escape(f"sem.{layout.PREFIX}{ring}.") + r"[0-9a-f]{16}\.(space|lane\.\d+)")
    there = segment.names()
    leavings = [name for name in there if files.fullmatch(name) or bells.fullmatch(name)]
    if layout.descriptor_name(ring) in there:
        leavings.append(layout.descriptor_name(ring))
    for name in leavings:
        _insist_on_our_own(name, ring)
    for name in leavings:
        if name.endswith(".ctl"):
            with contextlib.suppress(PermissionError, FileNotFoundError, NotTrustedError):
                fd = segment.open_lock(name)
                lives = segment.is_locked(fd, DAEMON_LOCK_BYTE)
                os.close(fd)
                if lives:
                    raise AlreadyRunningError(
                        f"a daemon still serves the ring {ring!r} although its lock file was removed; stop "
                        f"that daemon first"
                    )
    kept = {name for generation in keep for name in (control_name(ring, generation), former_name(ring, generation))}
    leavings = [name for name in leavings if name not in kept]
    for name in leavings:
        segment.shm_path(name).unlink(missing_ok=True)
    return leavings


def _insist_on_our_own(name: str, ring: str) -> None:
    """Raise StartError unless a daemon of this user can have made the file."""
    path = segment.shm_path(name)
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if facts.st_uid != os.geteuid():
        raise StartError(
            f"{path} belongs to another user (uid {facts.st_uid}), whose daemon may have left it; have that user run "
            f"`ringfeed clean {ring}`, or choose another name with --ring"
        )
    if not stat.S_ISREG(facts.st_mode):
        raise StartError(
            f"{path} is no plain file, so no daemon made it, and it is left alone; find out who did and remove it, or "
            f"choose another name with --ring"
        )


class RingMemory:
    """The two segments, the doorbells and the descriptor of one generation of a ring."""

    def __init__(self, descriptor: Descriptor, access: Access) -> None:
        """Reserve the memory. Nobody can find it before `announce`.

        Raises:
            StartError: there is too little memory in /dev/shm; nothing is left behind.
        """
        geometry = descriptor.geometry
        self.descriptor = replace(descriptor, generation=secrets.token_hex(8))
        self.geometry: Geometry = geometry
        self._access = access
        self._made = contextlib.ExitStack()
        free = free_bytes()
        try:
            self._create()
        except BaseException as error:
            self.unlink()
            if not isinstance(error, OSError):
                raise
            if error.errno == errno.ENOSPC:
                raise not_enough_memory(reserved_bytes(geometry), free, descriptor.ring) from error
            raise StartError(
                f"could not create the ring {descriptor.ring!r} in /dev/shm: {error.strerror or error}"
            ) from error

    def _create(self) -> None:
        descriptor, geometry, access = self.descriptor, self.geometry, self._access
        ring, generation = descriptor.ring, descriptor.generation
        self.data_fd = segment.create(descriptor.data, geometry.data_bytes, mode=access.mode, gid=access.gid)
        self._made.callback(segment.shm_path(descriptor.data).unlink, missing_ok=True)
        control_fd = segment.create(descriptor.control, geometry.control_bytes, mode=access.mode, gid=access.gid)
        self._made.callback(segment.shm_path(descriptor.control).unlink, missing_ok=True)
        # A mapping holds a duplicate of its descriptor, and so of its locks: the locks get an open file of their own.
        self._lock_fd = segment.open_lock(descriptor.control)
        if not segment.try_lock(self._lock_fd, DAEMON_LOCK_BYTE):
            raise StartError(f"somebody locked {segment.shm_path(descriptor.control)} before its maker could")
        self._bytes = segment.map_bytes(control_fd, 0, geometry.control_bytes, writable=True)
        os.close(control_fd)
        self._words = self._bytes.cast("Q")
        table = np.frombuffer(
            self._bytes, np.uint64, geometry.slots * SlotRecord.WORDS, offset=geometry.slot_table_offset
        )
        self._table = table.reshape(geometry.slots, SlotRecord.WORDS)
        self.lanes = [
            LanePage(self._bytes[offset : offset + PAGE_BYTES])
            for offset in map(geometry.lane_offset, range(geometry.lanes))
        ]
        names = [layout.space_name(ring, generation)]
        names += [layout.lane_bell_name(ring, generation, lane) for lane in range(geometry.lanes)]
        bells = []
        for name in names:
            self._made.callback(unlink_doorbell, name)
            bells.append(Doorbell.create(name, mode=access.mode, gid=access.gid))
        self.space, *self._lane_bells = bells
        header = {
            Header.MAGIC: layout.MAGIC,
            Header.LAYOUT_VERSION: layout.LAYOUT_VERSION,
            Header.GENERATION: int(generation, 16),
            Header.CONTROL_BYTES: geometry.control_bytes,
            Header.DATA_BYTES: geometry.data_bytes,
            Header.SLOTS: geometry.slots,
            Header.LANES: geometry.lanes,
        }
        for offset, value in header.items():
            self._words[offset >> 3] = value
        self.set(State.STARTED_NS, time.monotonic_ns())
        self.set(State.STATE, RingState.STARTING)

    def announce(self) -> None:
        """Let consumers find the ring.

        Raises:
            StartError: the descriptor could not be written.
        """
        self._made.callback(remove_descriptor, self.descriptor)
        try:
            write_descriptor(self.descriptor, mode=self._access.mode & 0o640, gid=self._access.gid)
        except OSError as error:
            path = segment.shm_path(layout.descriptor_name(self.descriptor.ring))
            raise StartError(
                f"could not write {path}: {error.strerror or error}; make room in /dev/shm, and start again"
            ) from error

    def announce_catalogs(self, catalogs: tuple[ServedCatalog, ...]) -> None:
        """Tell consumers what is served from which epoch on; before anything of a changed epoch is published."""
        changes = self.descriptor.catalog_changes + 1
        self.descriptor = replace(self.descriptor, catalogs=catalogs, catalog_changes=changes)
        write_descriptor(self.descriptor, mode=self._access.mode & 0o640, gid=self._access.gid)
        self.set(State.CATALOG_CHANGES, changes)

    def tell_refresh(self, outcome: str) -> None:
        """Say what came, or will come, of the latest refresh."""
        text = outcome.encode()[: layout.REASON_BYTES]
        self._bytes[State.REFRESH : State.REFRESH + len(text)] = text
        self.set(State.REFRESH_LENGTH, len(text))

    def end_refresh(self, outcome: str, *, taken: bool) -> None:
        """Say that a refresh's listing came to its end, and whether it is served, or will be."""
        self.tell_refresh(outcome)
        self.set(State.REFRESHES_TAKEN, self.get(State.REFRESHES_TAKEN) + taken)
        self.set(State.REFRESHES, self.get(State.REFRESHES) + 1)

    def set(self, offset: int, value: int) -> None:
        """Write one of the words of `State`."""
        self._words[offset >> 3] = value

    def get(self, offset: int) -> int:
        """Read one of the words of `State`."""
        return self._words[offset >> 3]

    def fail(self, reason: str) -> None:
        """Say that the ring has stopped for good, and why."""
        text = reason.encode()[: layout.REASON_BYTES]
        self._bytes[State.REASON : State.REASON + len(text)] = text
        self.set(State.REASON_LENGTH, len(text))
        self.set(State.STATE, RingState.FAILED)

    def write_record(
        self, seq: int, *, index: int, valid: bool, sizes: tuple[int, int, int, int], pair_id: bytes
    ) -> None:
        """Describe the pair in the slot of ``seq``.

        Args:
            sizes: image height and width, label height and width, in pixels.
        """
        slot = seq % self.geometry.slots
        offset = self.geometry.id_table_offset + slot * layout.ID_BYTES
        self._bytes[offset : offset + len(pair_id)] = pair_id
        self._table[slot] = (seq, index, SLOT_VALID if valid else 0, *sizes, len(pair_id))

    def ring_lane(self, lane: int, count: int) -> None:
        """Tell the consumer on ``lane`` of ``count`` more batches."""
        page, bell = self.lanes[lane], self._lane_bells[lane]
        page[Lane.POSTED] += count
        for _ in range(count):
            bell.ring()

    def ring_all(self) -> None:
        """Wake every consumer, to look at the ring's state."""
        for bell in self._lane_bells:
            bell.ring()

    def lane_lives(self, lane: int) -> bool:
        """Whether a process holds the lane's lock."""
        return segment.is_locked(self._lock_fd, FIRST_LANE_LOCK_BYTE + lane)

    def unlink(self) -> None:
        """Remove every name that this object made; consumers keep what they have mapped."""
        self._made.close()

    def __repr__(self) -> str:
        descriptor = self.descriptor
        return f"RingMemory({descriptor.ring!r}, generation {descriptor.generation}, {self.geometry.slots} slots)"


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
