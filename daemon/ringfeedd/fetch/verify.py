"""Whether bytes are what was listed: size, checksum, and what unpacks from a gzipped object."""

from __future__ import annotations

import google_crc32c

from ringfeedd.storage.base import ObjectInfo, SourceError
from ringfeedd.storage.payload import GZIP_MAGIC, unpacked

_SHOWN_BYTES = 24
_PAGE_BEGINS = (b"<!doctype html", b"<html")


def content_of(data: bytes, info: ObjectInfo, max_bytes: int) -> bytes:
    """Compare what was read with what was listed, and return it, unpacked where it is stored gzipped.

    Most JPEGs with a flipped bit decode without an error, into other pixels: only the checksum sees it. No image format
    begins with gzip's magic.

    Raises:
        SourceError: it is not what was listed: retryable, because it is mostly the way and not the object that is
            broken. Final, if it does not unpack, or to more than `max_bytes`.
    """
    name = info.name
    if len(data) != info.size:
        # a page of a proxy or a portal comes in the place of every object: that is not this object's fault
        cause = "html" if data[:64].lstrip().lower().startswith(_PAGE_BEGINS) else "size"
        came = f"{len(data):,}{' or more' if len(data) > info.size else ''}"  # a source stops where it is too much
        sentence = f"{name} came with {came} bytes instead of {info.size:,}; it begins {data[:_SHOWN_BYTES]!r}."
        raise SourceError(sentence, cause=cause, retryable=True)
    if info.crc32c is not None and (found := google_crc32c.value(data)) != info.crc32c:
        sentence = f"{name} came with crc32c {found:08x} instead of {info.crc32c:08x}."
        raise SourceError(sentence, cause="crc32c", retryable=True)
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        content = unpacked(data, max_bytes)
    except ValueError as error:
        raise SourceError(f"{name} is stored gzipped, and does not unpack: {error}.", cause="gzip") from error
    if len(content) > max_bytes:
        raise SourceError(f"{name} is stored gzipped, and unpacks to over {max_bytes:,} bytes.", cause="too_large")
    return content
