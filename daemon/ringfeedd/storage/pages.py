"""One page of a bucket's listing as the JSON API gives it, and how pages follow each other. Pure."""

from __future__ import annotations

import base64
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ringfeedd.storage.base import ObjectInfo, SourceError

MAX_OBJECTS: Final = 100_000_000
"""The objects of one listing, by default; a server may go on for as long as it likes."""

MAX_TOKEN_BYTES: Final = 4096
"""The size of a page's token, which goes into the next request's address."""

MAX_EMPTY_PAGES: Final = 1000
"""In a row. The API may give empty pages, and yet a listing must end."""

_MOST_CRC_BYTES: Final = 64
"""The size of a checksum as JSON: eight characters, each of them perhaps escaped, in quotes."""

_Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class _Item(msgspec.Struct, frozen=True, gc=False):
    """One object; the API writes its numbers as strings."""

    name: str
    size: _Number = 0
    generation: _Number = 0
    crc32c: msgspec.Raw = msgspec.Raw()  # an emulator may give anything here; it is looked at, and never built


class Page(msgspec.Struct, frozen=True, rename="camel"):
    """One page: what ``objects.list`` answers with, as far as it was asked for."""

    items: list[_Item] = []
    next_page_token: str = ""

    def objects(self, prefix: str) -> list[ObjectInfo]:
        """The objects, their names relative to `prefix`; what does not begin with it was not asked for."""
        cut = len(prefix)
        return [
            ObjectInfo(item.name[cut:], item.size, item.generation, _crc32c(item.crc32c))
            for item in self.items
            if item.name.startswith(prefix)
        ]


class Paging:
    """Follows the pages of one listing, and sees to it that they end."""

    def __init__(self, root: str, max_objects: int = MAX_OBJECTS) -> None:
        self._root, self._max_objects = root, max_objects
        self._objects = 0
        self._seen: set[int] = set()
        self._empty = 0

    def next_token(self, page: Page) -> str | None:
        """What to ask for after `page`; None: it was the last.

        Raises:
            SourceError: the listing goes in a circle, on and on without objects, or beyond `max_objects`.
        """
        token = page.next_page_token
        self._objects += len(page.items)
        if self._objects > self._max_objects:
            sentence = (
                f"{self._root} lists more than {self._max_objects:,} objects (max_objects); give a prefix that holds "
                f"fewer, or raise --max-objects if there are so many."
            )
            raise SourceError(sentence, cause="too_many")
        if not token:  # a page may be empty, and still not the last
            return None
        self._empty = 0 if page.items else self._empty + 1
        if self._empty > MAX_EMPTY_PAGES:
            sentence = f"{self._root} gives page after page of its listing without objects; is it a GCS server?"
            raise SourceError(sentence, cause="not_json")
        if len(token) > MAX_TOKEN_BYTES:
            sentence = f"{self._root} gives a page token of {len(token):,} characters; is it a GCS server?"
            raise SourceError(sentence, cause="not_json")
        if hash(token) in self._seen:
            raise SourceError(f"{self._root} gives the same pages of its listing again and again.", cause="not_json")
        self._seen.add(hash(token))
        return token


def _crc32c(listed: msgspec.Raw) -> int | None:
    """The API's base64 of four big-endian bytes; None for anything else."""
    text = bytes(listed) if len(memoryview(listed)) <= _MOST_CRC_BYTES else b""
    if not text.startswith(b'"'):
        return None
    try:
        raw = base64.b64decode(msgspec.json.decode(text) if b"\\" in text else text[1:-1], validate=True)
    except ValueError:  # no base64, or not even ASCII
        return None
    return int.from_bytes(raw, "big") if len(raw) == 4 else None
