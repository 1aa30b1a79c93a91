"""A bucket's listing as static files, one for each page: what the GCS JSON API would answer, made once."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

PAGE_OBJECTS: Final = 1000
"""Objects in a page: the most that the API gives at once."""


class Listed(NamedTuple):
    """One object: its whole name, its size in bytes, its CRC-32C. A tuple, since there may be millions."""

    name: str
    size: int
    crc32c: int


def page_name(prefix: str, page: int) -> str:
    """The token by which page number ``page`` is asked for; ``.json`` makes it the file's name."""
    return f"{prefix.strip('/')}-{page}"


def write_listing(folder: Path, prefix: str, objects: Iterable[Listed]) -> int:
    """Write the pages of everything below ``prefix``; at least one, maybe empty.

    Args:
        objects: in the order of their names.

    Returns:
        How many pages were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, following = 0, iter(_pages(objects))
    here = next(following, ())
    while True:
        then = next(following, None)
        content: dict[str, object] = {"kind": "storage#objects", "items": [_item(one) for one in here]}
        if then is not None:
            content["nextPageToken"] = page_name(prefix, page + 1)
        (folder / f"{page_name(prefix, page)}.json").write_bytes(msgspec.json.encode(content))
        page += 1
        if then is None:
            return page
        here = then


def _item(one: Listed) -> dict[str, str]:
    checksum = base64.b64encode(one.crc32c.to_bytes(4, "big")).decode()
    return {"name": one.name, "size": str(one.size), "generation": "1", "crc32c": checksum}


def _pages(objects: Iterable[Listed]) -> Iterator[tuple[Listed, ...]]:
    objects = iter(objects)
    while page := tuple(itertools.islice(objects, PAGE_OBJECTS)):
        yield page
