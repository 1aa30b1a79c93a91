"""What the fake server serves: buckets of objects in memory, or a folder of folders."""

from __future__ import annotations

import base64
import bisect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object: its name, its bytes, and a generation that changes with them."""

    name: str
    data: bytes
    generation: int

    def resource(self, bucket: str) -> dict[str, str]:
        """The object as the JSON API describes it; numbers are strings there."""
        checksum = int(google_crc32c.value(self.data)).to_bytes(4, "big")
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": self.name,
            "size": str(len(self.data)),
            "generation": str(self.generation),
            "crc32c": base64.b64encode(checksum).decode(),
        }


class Store(Protocol):
    """Buckets of objects."""

    def names(self, bucket: str, prefix: str) -> list[str] | None:
        """The names that begin with `prefix`, in the order of their UTF-8; None where there is no such bucket."""
        ...

    def get(self, bucket: str, name: str) -> StoredObject | None:
        """The object, or None."""
        ...


class MemoryStore:
    """Buckets as mappings from name to bytes; a test may change them while they are served."""

    def __init__(self, buckets: Mapping[str, MutableMapping[str, bytes]]) -> None:
        self._buckets = buckets

    def names(self, bucket: str, prefix: str) -> list[str] | None:
        """See `Store.names`."""
        objects = self._buckets.get(bucket)
        return None if objects is None else _in_order(name for name in objects if name.startswith(prefix))

    def get(self, bucket: str, name: str) -> StoredObject | None:
        """See `Store.get`; the generation is derived from the content."""
        data = self._buckets.get(bucket, {}).get(name)
        return None if data is None else StoredObject(name, data, 1 + int(google_crc32c.value(data)))


class FolderStore:
    """``FOLDER/BUCKET/NAME`` on disk; the generation is the modification time in us.

    Nothing outside of the folder is served, whatever a request names and wherever a link in it leads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def names(self, bucket: str, prefix: str) -> list[str] | None:
        """See `Store.names`."""
        root = self._bucket(bucket)
        if root is None:
            return None
        names = (path.relative_to(root).as_posix() for path in root.rglob("*") if self._file(path) is not None)
        return _in_order(name for name in names if name.startswith(prefix) and _is_utf8(name))

    def get(self, bucket: str, name: str) -> StoredObject | None:
        """See `Store.get`."""
        root = self._bucket(bucket)
        if root is None or name.startswith("/") or ".." in name.split("/"):
            return None
        path = self._file(root / name)
        if path is None:
            return None
        return StoredObject(name, path.read_bytes(), path.stat().st_mtime_ns // 1000)

    def _file(self, path: Path) -> Path | None:
        """The file that a path names; None where it is none, or lies outside of the folder."""
        try:
            real = path.resolve()
            return real if real.is_relative_to(self._folder) and real.is_file() else None
        except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL in its name
            return None

    def _bucket(self, bucket: str) -> Path | None:
        """The folder of a bucket, which is one of the folder's own, or a link to another that lies within it."""
        if bucket in ("", ".", "..") or "/" in bucket or "\0" in bucket:
            return None
        path = (self._folder / bucket).resolve()
        return path if path.is_relative_to(self._folder) and path.is_dir() else None


def page_of(names: list[str], after: str, size: int) -> tuple[list[str], str | None]:
    """The page that follows the name `after`, and the name to go on after; None when this page is the last."""
    start = bisect.bisect_right(names, after.encode(), key=str.encode) if after else 0
    page = names[start : start + size]
    return page, page[-1] if start + size < len(names) else None


def _is_utf8(name: str) -> bool:
    """Whether a file's name can be an object's."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_order(names: object) -> list[str]:
    return sorted(names, key=str.encode)  # type: ignore[call-overload,no-any-return]
