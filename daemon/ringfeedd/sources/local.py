"""A local folder as a source: for tests, for small sets, for buckets that something else mounts."""

from __future__ import annotations

import asyncio
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING

from .base import PAGE_OBJECTS, ObjectInfo, SourceError

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


class LocalSource:
    """The regular files below one folder; see `Source`.

    Hidden files and folders (a leading dot) are no objects. A symbolic link to a file counts when it ends inside the
    root; linked folders are not walked into, because they may lead back up. The generation is the file's modification
    time in ns, so that a file rewritten after the listing is refused instead of passed off as the listed one.
    """

    begin_read = None

    def __init__(self, folder: Path, *, concurrency: int) -> None:
        self._root = str(folder)
        self._real = os.path.realpath(folder)
        self._threads = ThreadPoolExecutor(min(concurrency, MAX_THREADS), thread_name_prefix="ringfeed-read")

    def __repr__(self) -> str:
        return f"LocalSource({self._root!r})"

    @property
    def root(self) -> str:
        """The folder, as it was given."""
        return self._root

    async def list_pages(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
        """Every file whose name begins with `prefix`, in the folder's own order; see `Source.list_pages`."""
        loop = asyncio.get_running_loop()
        files = self._walk(prefix)
        while page := await loop.run_in_executor(self._threads, lambda: list(islice(files, PAGE_OBJECTS))):
            yield page

    async def read(self, name: str, generation: int, max_bytes: int | None = None) -> bytes:
        """The file's bytes, read in a thread; see `Source.read`. Raises: `SourceError`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, name, generation, max_bytes)

    async def close(self) -> None:
        """Let the threads end; reads not yet begun are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """The files below the root that `prefix` allows; no sorting, so that a folder of millions costs no memory."""
        folders = [prefix.rpartition("/")[0]]
        if folders != [""] and not self._is_plain_folder(folders[0]):
            return
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(os.path.join(self._real, folder)) as entries:  # noqa: PTH118 - the hot loop
                    for entry in entries:
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.name.startswith(".") or not name.startswith(prefix):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(name)
                        elif info := self._info(entry, name):
                            yield info
            except FileNotFoundError:
                continue  # the folder went away while we walked: so did its files
            except OSError as error:
                sentence = f"The folder {folder or '.'} under {self._root} cannot be listed: {error.strerror}."
                raise SourceError(sentence, cause="io") from error

    def _is_plain_folder(self, folder: str) -> bool:
        """Whether `folder` is what the walk would have reached: inside the root, not hidden, through no link."""
        parts = folder.split("/")
        path = os.path.join(self._real, folder)  # noqa: PTH118
        hidden = any(part.startswith(".") or not part for part in parts)
        return not hidden and os.path.realpath(path) == path and os.path.isdir(path)  # noqa: PTH112

    def _info(self, entry: os.DirEntry[str], name: str) -> ObjectInfo | None:
        try:
            if entry.is_symlink() and not self._inside(os.path.realpath(entry.path)):
                return None
            status = entry.stat()
        except (FileNotFoundError, PermissionError):  # it went away, or is a broken link
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return ObjectInfo(name, status.st_size, max(0, status.st_mtime_ns))

    def _inside(self, path: str) -> bool:
        return path.startswith(self._real.rstrip("/") + "/")

    def _read(self, name: str, generation: int, max_bytes: int | None) -> bytes:
        path = os.path.realpath(os.path.join(self._real, name))  # noqa: PTH118
        if not self._inside(path):
            raise SourceError(f"{name} lies outside {self._root}, and is not read.", cause="forbidden")
        try:
            # O_NONBLOCK: opening a FIFO that took the file's place must not hang a thread
            with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise SourceError(f"{name} under {self._root} is no regular file.", cause="missing")
                if generation and max(0, status.st_mtime_ns) != generation:
                    sentence = (
                        f"{name} under {self._root} was changed since it was listed; `ringfeed refresh` lists it anew."
                    )
                    raise SourceError(sentence, cause="changed")
                return file.read(-1 if max_bytes is None else max_bytes + 1)
        except OSError as error:
            cause = _FINAL_CAUSES.get(type(error), "io")
            sentence = f"{name} under {self._root} cannot be read: {error.strerror or error}."
            raise SourceError(sentence, cause=cause, retryable=cause == "io") from error
