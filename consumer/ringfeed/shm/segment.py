"""Shared-memory files: create, map, map twice in a row, lock, unlink.

Files are opened below ``/dev/shm`` directly, which is what shm_open does on Linux; nothing here truncates, grows or
unlinks a file that it did not create, and no finaliser unlinks anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Final

from ringfeed.errors import NoAccessError, NotTrustedError
from ringfeed.shm import access as trust
from ringfeed.shm import pages
from ringfeed.shm.access import describe, no_access, ownership
from ringfeed.shm.layout import SHM_DIR

_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock with 64-bit offsets: type, whence, start, length, pid


def shm_path(name: str) -> Path:
    """Where the shared-memory file ``name`` lies."""
    return Path(SHM_DIR) / name


def create(name: str, size: int, *, mode: int, gid: int) -> int:
    """Create a file of ``size`` bytes, all of them reserved, with exactly this mode; return its descriptor.

    The file has no name before it is complete, so a process that is killed meanwhile leaves nothing behind.

    Args:
        gid: the owning group, or -1 to leave it.

    Raises:
        FileExistsError: the name is taken.
        OSError: ENOSPC when /dev/shm has not got that much; nothing is left behind.
    """
    nameless = reserve(size, mode=mode, gid=gid)
    try:
        return give_name(nameless, name)
    finally:
        os.close(nameless)


def reserve(size: int, *, mode: int, gid: int) -> int:
    """Reserve a file of ``size`` bytes that has no name yet; return its descriptor. See `create`."""
    fd = os.open(SHM_DIR, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
        if gid != -1:
            os.fchown(fd, -1, gid)
        os.fchmod(fd, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def give_name(nameless: int, name: str) -> int:
    """Give a file from `reserve` its name in /dev/shm; return another descriptor, by whose entry in /proc it is known.

    Raises:
        FileExistsError: the name is taken.
    """
    path = shm_path(name)
    folder = os.open(SHM_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # with a folder's descriptor, os.link calls linkat, which can follow the link below /proc to the file
        os.link(f"/proc/self/fd/{nameless}", path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def replace_file(name: str, data: bytes, *, draft: str, mode: int, gid: int) -> os.stat_result:
    """Put ``data`` in the place of the file ``name``, whole, by a rename; nothing is left behind where that fails.

    Args:
        draft: its name before the rename.

    Returns:
        The facts of the new file.

    Raises:
        OSError: there is no room, or the name is another user's.
    """
    nameless = reserve(0, mode=mode, gid=gid)
    try:
        write_all(nameless, data)
        os.close(give_name(nameless, draft))
        try:
            shm_path(draft).rename(shm_path(name))
        except BaseException:
            shm_path(draft).unlink(missing_ok=True)
            raise
        return os.fstat(nameless)
    finally:
        os.close(nameless)


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data`` at the file's beginning."""
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], written)


def open_existing(name: str, *, writable: bool, own: bool = False) -> int:
    """Open a shared-memory file that exists, and check that no other user can have planted it.

    Args:
        own: trust no other user's file, whatever its group.

    Raises:
        FileNotFoundError: there is none.
        NoAccessError: this user may not open it.
        NotTrustedError: see `trust.distrust`.
    """
    path, flags = shm_path(name), os.O_RDWR if writable else os.O_RDONLY
    try:
        # O_NONBLOCK: opening a FIFO that another user planted must not wait for its other end
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotTrustedError(f"{describe(path)} is a symbolic link, which no daemon makes; remove it") from error
        if error.errno in (errno.EISDIR, errno.ENXIO):
            raise NotTrustedError(f"{describe(path)} is not a regular file, so no daemon made it; remove it") from error
        if error.errno == errno.EROFS:
            raise NoAccessError(
                f"{describe(path)} is on a read-only file system here, and a reader writes its own words there; mount "
                f"{SHM_DIR} read-write (in Kubernetes, without `readOnly: true`), or only look: `ringfeed status`"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise no_access(path) from error
        raise
    facts = os.fstat(fd)
    if why := distrust(facts) or ("it belongs to another user" if own and facts.st_uid != os.geteuid() else None):
        os.close(fd)
        raise NotTrustedError(
            f"{path} {ownership(facts)} is not trusted as a daemon's: {why}; {trust.remedy(facts, os.geteuid())}"
        )
    return fd


def distrust(facts: os.stat_result) -> str | None:
    """Return why this process does not trust a file in /dev/shm; None if it does."""
    uid, gids = os.geteuid(), {os.getegid(), *os.getgroups()}
    why = trust.distrust(facts, uid=uid, gids=gids)
    # the other users that it trusts are looked up only where that decides
    return why and trust.distrust(facts, uid=uid, gids=gids, trusted=trust.trusted_uids())


def read_whole(name: str, most_bytes: int, *, own: bool = False) -> bytes:
    """Read a shared-memory file that no other user can have planted; see `open_existing`.

    Raises:
        NotTrustedError: also where it is larger than ``most_bytes``, which no daemon writes. Else as `open_existing`.
    """
    fd = open_existing(name, writable=False, own=own)
    with os.fdopen(fd, "rb") as file:
        text = file.read(most_bytes + 1)
    if len(text) > most_bytes:
        raise NotTrustedError(f"{describe(shm_path(name))} is larger than what a daemon writes there; remove it")
    return text


def names() -> list[str]:
    """The names of all files in /dev/shm, sorted.

    Raises:
        NotTrustedError: there is no such folder, or this user may not look into it.
    """
    try:
        return sorted(os.listdir(SHM_DIR))  # noqa: PTH208  # names are what is matched
    except OSError as error:
        raise NotTrustedError(
            f"{describe(Path(SHM_DIR))} cannot be listed: {error.strerror}; mount it as a tmpfs with mode 1777"
        ) from error


def is_still(name: str, fd: int) -> bool:
    """Return whether the file of this name is the one that is open as ``fd``; False where it was removed or replaced.

    Any other failure to look, e.g. without memory or descriptors, says nothing about the file: then it is still there.
    """
    held = os.fstat(fd)
    return names_inode(shm_path(name), held.st_dev, held.st_ino)


def names_inode(path: Path, device: int, inode: int) -> bool:
    """Return whether a path still leads to this inode; True where that cannot be found out."""
    try:
        there = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return (there.st_dev, there.st_ino) == (device, inode)


def map_bytes(fd: int, offset: int, length: int, *, writable: bool) -> memoryview:
    """Map part of a file, shared.

    The mapping holds a duplicate of ``fd`` for as long as the view lives: never pass one that carries a lock.

    Raises:
        OSError: the file is too short; `NoAddressSpaceError` where this process may map no more.
    """
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    begin, before = pages.split_offset(offset)
    try:
        return memoryview(mmap.mmap(fd, before + length, mmap.MAP_SHARED, access, offset=begin))[before:]
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise pages.not_mapped(length, errno.ENOMEM) from error


def map_region(fd: int, offset: int, length: int, *, writable: bool, twice: bool) -> memoryview:
    """Map ``length`` bytes of a file; with ``twice``, two times back to back, so that byte ``length`` is byte 0 again.

    Shared, so what is written reaches the file; see `map_private` for a mapping where it does not. The memory is
    unmapped when the last array over it is gone; never before, never at the interpreter's exit.

    Args:
        offset, length: bytes; see `pages.can_repeat` for ``twice``.

    Raises:
        NoAddressSpaceError: the kernel refused, e.g. the address space is limited.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    view = pages.map_file(fd, offset, length, protection=protection, flags=mmap.MAP_SHARED, times=2 if twice else 1)
    return view if writable else view.toreadonly()


def map_private(fd: int, offset: int, length: int, *, twice: bool) -> memoryview:
    """Map as `map_region` does, to read what others write into the file; what this process writes is its own alone.

    A page that was written into no longer shows the file (see `pages.written`). The mapping is read-only where
    `pages.copies_on_write` says so.
    """
    writable = pages.copies_on_write()
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    flags, times = mmap.MAP_PRIVATE | pages.MAP_NORESERVE, 2 if twice else 1
    view = pages.map_file(fd, offset, length, protection=protection, flags=flags, times=times)
    return view if writable else view.toreadonly()


def try_lock(fd: int, byte: int) -> bool:
    """Lock one byte for this open file description, which the kernel undoes when the last process that has it dies."""
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):  # EAGAIN or, says POSIX, EACCES
        return False
    return True


def try_share(fd: int, byte: int) -> bool:
    """Lock one byte as `try_lock` does, but together with others that share it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(fd: int, byte: int) -> None:
    """Give one byte's lock back."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0))


def is_locked(fd: int, byte: int, count: int = 1) -> bool:
    """Whether another process holds the lock of a byte, or of any of ``count``: the kernel's word on who lives."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def open_lock(name: str) -> int:
    """Open a file for its locks only, as an open file description of its own that no mapping shares."""
    return open_existing(name, writable=True)


def reopen(fd: int) -> int:
    """Another open file description, without locks, of a file that may have no name any more."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)


_LOCKS_OF_THIS_PROCESS: set[int] = set()


def close_in_children(fd: int) -> None:
    """Have every forked child close ``fd``, which would else keep the parent's locks alive after its death."""
    _LOCKS_OF_THIS_PROCESS.add(fd)


def close_lock(fd: int) -> None:
    """Close a descriptor that `close_in_children` was told of; does nothing in a child, where it is closed already."""
    if fd in _LOCKS_OF_THIS_PROCESS:  # else the number may be another file's by now
        _LOCKS_OF_THIS_PROCESS.discard(fd)
        os.close(fd)


def _in_child() -> None:
    for fd in _LOCKS_OF_THIS_PROCESS:
        with contextlib.suppress(OSError):
            os.close(fd)
    _LOCKS_OF_THIS_PROCESS.clear()


os.register_at_fork(after_in_child=_in_child)
