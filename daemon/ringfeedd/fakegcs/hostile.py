"""Answers that mean harm: text that cannot be encoded, numbers without a bound, bodies that unpack to gigabytes.

None of them says that an object is gone, so a client that bounds what it takes asks again and loses nothing.
"""

from __future__ import annotations

import random
import zlib
from typing import Final

from aiohttp import web

SURROGATE: Final = b'{"error": {"code": 503, "message": "\\ud800 \\udfff\\u0000 \\u001b[2J"}}'
NESTED: Final = b"[" * 100_000 + b"]" * 100_000
BOMB_BYTES: Final = 256 << 20
"""What the packed bodies unpack to."""

WAITS: Final = ("nan", "-5", "inf", "1e999", "0x10", "Thu, 01 Jan 1970 00:00:00 GMT", "\xe9\xff", "")
"""Values of Retry-After that do not name a wait."""


def _bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * (1 << 20)
    packed = b"".join(packer.compress(block) for _ in range(BOMB_BYTES >> 20))
    return packed + packer.flush()


_BOMBS: Final[list[bytes]] = []


def _packed() -> web.Response:
    if not _BOMBS:
        _BOMBS.append(_bomb())
    return web.Response(body=_BOMBS[0], headers={"Content-Encoding": "gzip"}, content_type="application/json")


def hostile_answer(operation: str, name: str, number: int, seed: int) -> web.Response:
    """Return one of the answers for an operation; a function of its arguments alone."""
    chance = random.Random(f"{seed}/hostile/{name}/{number}")
    kind = chance.choice(("text", "wait", "nested", "bomb", "lie") if operation != "list" else LISTINGS)
    response: web.Response
    if kind in ("bomb", "packed page"):
        response = _packed()
        response.set_status(200 if operation == "list" else 503)
    elif kind == "lie":  # the object, as it claims: what it unpacks to is not
        response = _packed()
    elif kind in ("nested", "nested page"):
        response = web.Response(body=NESTED, content_type="application/json")
        response.set_status(503 if kind == "nested" else 200)
    elif kind == "page":
        response = web.Response(body=chance.choice(PAGES), content_type="application/json")
    else:
        response = web.Response(status=503, body=SURROGATE, content_type="application/json")
        if kind == "wait":
            response.headers["Retry-After"] = chance.choice(WAITS)
    return response


LISTINGS: Final = ("text", "wait", "nested page", "packed page", "page", "page", "page")
PAGES: Final = (
    b'{"items": [], "nextPageToken": "again"}',
    b'{"items": [{"name": "set/images/\\ud800.jpg", "size": "1"}]}',
    b'{"items": [{"name": "set/images/a.jpg", "size": "-1", "generation": "-9"}]}',
    b'{"items": [{"name": "set/images/a.jpg", "size": "1e400", "generation": 1e400}]}',
    b'{"items": [{"name": "set/images/a.jpg", "size": "' + b"9" * 400 + b'"}]}',
    b'{"items": {"name": 7}}',
    b'{"nextPageToken": {"a": 1}}',
)
"""Pages of a listing: a token that comes again and again, names that are not text, numbers that are not sizes."""
