"""A local folder as a source: for tests, for small sets, for buckets that something else mounts."""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

from ringfeedd.storage.base import PAGE_OBJECTS, ObjectInfo, OnEnd, Reading, SourceError, TaskReading
from ringfeedd.storage.skipped import Kind, Skipped
from ringfeedd.system.files import open_at_once
from ringfeedd.system.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

MAX_THREADS = 32
"""Disk reads at once: more threads than this only wait for each other."""

_FINAL_CAUSES: dict[type[OSError], str] = {
    FileNotFoundError: "missing",
    NotADirectoryError: "missing",
    IsADirectoryError: "missing",
    PermissionError: "forbidden",
}

_UNREADABLE: Final = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG})

_Identity: TypeAlias = tuple[int, int]
"""Device and inode: the same folder by whichever name."""


class LocalSource:
    """The regular files below one folder; see `Source`.

    Symbolic links are followed, out of the root too: data sets are often links to a store elsewhere. A link that leads
    back to a folder above it is not. What is left out is what `Skipped` hides, and whatever cannot be read as a file.
    The generation is the file's modification time in ns, so that a file rewritten after the listing is refused instead
    of passed off as the listed one.
    """

    def __init__(self, folder: Path, *, concurrency: int) -> None:
        self._root = str(folder)
        self._real = os.path.realpath(folder)
        self._threads = Threads(min(concurrency, MAX_THREADS), "ringfeed-read")

    def __repr__(self) -> str:
        return f"LocalSource({self._root!r})"

    @property
    def root(self) -> str:
        """The folder, as it was given."""
        return self._root

    async def list_pages(self, prefix: str, skipped: Skipped | None = None) -> AsyncIterator[list[ObjectInfo]]:
        """Every file whose name begins with `prefix`, in the folder's own order; see `Source.list_pages`."""
        files = self._walk(prefix, skipped or Skipped([prefix]))
        while page := await self._threads.run(lambda: list(islice(files, PAGE_OBJECTS))):
            yield page

    def begin_read(self, name: str, generation: int, max_bytes: int, on_end: OnEnd) -> Reading:
        """Read the file in a thread; see `Source.begin_read`."""
        return TaskReading(self._in_thread(name, generation, max_bytes), on_end)

    async def _in_thread(self, name: str, generation: int, max_bytes: int) -> bytes:
        return await self._threads.run(self._read, name, generation, max_bytes)

    async def close(self) -> None:
        """Let the threads end; reads not yet begun are dropped."""
        self._threads.shutdown()

    # Listing.

    def _walk(self, prefix: str, skipped: Skipped) -> Iterator[ObjectInfo]:
        """Yield the files below the root that `prefix` allows; unsorted, so a folder of millions costs no memory."""
        first = prefix.rpartition("/")[0]
        above = self._way_to(first, skipped)
        if above is None:
            return
        folders = [(first, above)]
        while folders:
            folder, above = folders.pop()
            try:
                status = os.stat(self._path(folder))  # noqa: PTH116 - the hot loop
                identity = status.st_dev, status.st_ino
                if identity in above:
                    skipped.add(Kind.LOOP, f"{folder}/")
                    continue
                with os.scandir(self._path(folder)) as entries:
                    for entry in entries:
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        found = _found(entry, name, skipped) if name.startswith(prefix) else None
                        if isinstance(found, str):
                            folders.append((found, above | {identity}))
                        elif found is not None:
                            yield found
            except (FileNotFoundError, NotADirectoryError):
                continue  # the folder went away while we walked: so did its files
            except OSError as error:
                if folder == first or error.errno not in _UNREADABLE:
                    raise self._not_listed(folder, error) from error
                skipped.add(Kind.UNREADABLE, f"{folder}/")

    def _way_to(self, folder: str, skipped: Skipped) -> frozenset[_Identity] | None:
        """The folders above `folder`, from the root on; None where it is not a folder below the root."""
        parts = folder.split("/") if folder else []
        if any(part in ("", ".", "..") for part in parts):
            return None
        above = set[_Identity]()
        for depth in range(len(parts) + 1):
            name = "/".join(parts[:depth])
            path = self._path(name)
            try:
                status = os.stat(path)  # noqa: PTH116
            except OSError as error:
                if os.path.islink(path):  # noqa: PTH114
                    skipped.add(Kind.BROKEN, name)
                    return None
                if isinstance(error, FileNotFoundError | NotADirectoryError):
                    return None
                raise self._not_listed(name, error) from error
            if not stat.S_ISDIR(status.st_mode):
                return None
            if depth < len(parts):
                above.add((status.st_dev, status.st_ino))
        return frozenset(above)

    def _path(self, name: str) -> str:
        return os.path.join(self._real, name)  # noqa: PTH118

    def _not_listed(self, folder: str, error: OSError) -> SourceError:
        sentence = f"The folder {folder or '.'} under {self._root} cannot be listed: {error.strerror}."
        return SourceError(sentence, cause="io")

    # Reading.

    def _read(self, name: str, generation: int, max_bytes: int) -> bytes:
        if name.startswith("/") or ".." in name.split("/"):  # a listing gives no such name
            raise SourceError(f"{name} lies outside {self._root}, and is not read.", cause="forbidden")
        try:
            # O_NONBLOCK: opening a FIFO that took the file's place must not hang a thread
            with open(self._path(name), "rb", opener=open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise SourceError(f"{name} under {self._root} is not a regular file.", cause="missing")
                if generation and max(0, status.st_mtime_ns) != generation:
                    sentence = (
                        f"{name} under {self._root} was changed since it was listed; `ringfeed refresh` lists it again."
                    )
                    raise SourceError(sentence, cause="changed")
                return file.read(max_bytes + 1)
        except OSError as error:
            cause = _FINAL_CAUSES.get(type(error), "io")
            sentence = f"{name} under {self._root} cannot be read: {error.strerror or error}."
            raise SourceError(sentence, cause=cause, retryable=cause == "io") from error


def _found(entry: os.DirEntry[str], name: str, skipped: Skipped) -> ObjectInfo | str | None:
    """Return what is known of a file, or the name of a folder to look into; None where it is left out."""
    if _is_folder(entry):
        return name if skipped.enters(name) else None
    return _info(entry, name, skipped) if skipped.takes(name) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; what cannot be looked at is left to `_info`."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _info(entry: os.DirEntry[str], name: str, skipped: Skipped) -> ObjectInfo | None:
    """What a listing says of a file; None where it is not a file that can be read."""
    try:
        status = entry.stat()
    except OSError as error:
        if entry.is_symlink():
            skipped.add(Kind.UNREADABLE if error.errno in _UNREADABLE else Kind.BROKEN, name)
        elif not isinstance(error, FileNotFoundError):  # else it went away while we walked
            skipped.add(Kind.UNREADABLE, name)
        return None
    if not stat.S_ISREG(status.st_mode):
        skipped.add(Kind.SPECIAL, name)
        return None
    if not status.st_mode & stat.S_IROTH and not os.access(entry.path, os.R_OK):
        skipped.add(Kind.UNREADABLE, name)
        return None
    return ObjectInfo(name, status.st_size, max(0, status.st_mtime_ns))
