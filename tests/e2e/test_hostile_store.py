"""A store that sends what no store should: it costs a sentence, never the memory, the time or the worker."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import json
import time
import tracemalloc
import zlib

import msgspec
import numpy as np
import pytest
from gcs_fixtures import QUICK, ListedSource
from transports import TRANSPORTS

from ringfeedd.catalog.listing import build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.errors import BadPairError, StartError
from ringfeedd.fetch.health import StoreReport
from ringfeedd.storage import SourceError, StoreSettings
from ringfeedd.storage.base import read
from ringfeedd.storage.gcs import GcsSource
from ringfeedd.storage.listing import MAX_PAGE_BYTES
from ringfeedd.storage.pages import Page
from ringfeedd.storage.payload import MAX_ERROR_TEXT_BYTES, text_of
from ringfeedd.storage.transport.base import MAX_ERROR_BYTES
from ringfeedd.worker import protocol as messages
from ringfeedd.worker.protocol import Decoded, Failed, Results

PIECE = bytes(1 << 16)
MOST_SENT = 64 << 20
SIDES = (("images", "jpg"), ("labels", "png"))


@pytest.fixture(params=TRANSPORTS)
def transport(request):
    return request.param


class HostileServer:
    """Answers each request with the next head and pieces of a body, the last for ever; counts the bytes it sends."""

    def __init__(self, *answers):
        self.answers, self.requests, self.sent, self.targets = answers, 0, 0, []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        try:
            self.targets.append((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
            head, pieces = self.answers[min(self.requests, len(self.answers) - 1)]
            self.requests += 1
            writer.write(b"HTTP/1.1 " + head + b"\r\nConnection: close\r\n\r\n")
            for piece in pieces() if callable(pieces) else [pieces]:
                writer.write(piece)
                self.sent += len(piece)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def endless():
    for _ in range(MOST_SENT // len(PIECE)):
        yield PIECE


def packed_zeros(size):
    """So many zeros as gzip: pieces of a body, made when they are sent and not when tests are collected."""

    def pieces():
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        yield b"".join(packer.compress(PIECE) for _ in range(size // len(PIECE))) + packer.flush()

    return pieces


def run(use, transport, *answers, **options):
    async def main():
        async with HostileServer(*answers) as server:
            settings = StoreSettings(**{"concurrency": 2, "read_timeout_s": 5.0, "transport": transport} | options)
            source = GcsSource("b", "p/", settings, api_root=server.url, bearer=None, backoff=QUICK)
            try:
                return await use(server, source)
            finally:
                await source.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


async def listing_error(source):
    with pytest.raises(SourceError) as caught:
        async for _ in source.list_pages(""):
            pass
    return caught.value


@pytest.mark.parametrize("body", [endless, packed_zeros(700 << 20)], ids=["endless", "gzip"])
def test_a_page_of_a_listing_is_bounded(transport, body):
    async def use(server, source):
        error = await listing_error(source)
        assert f"a page of more than {MAX_PAGE_BYTES >> 20} MiB" in str(error)
        assert (error.cause, error.retryable) == ("too_large", False)
        assert server.sent < MAX_PAGE_BYTES + (16 << 20)  # with what lies in buffers

    run(use, transport, (b"200 OK", body))


def test_a_gzipped_page_is_a_page(transport):
    page = {"items": [{"name": "p/x", "size": "3"}], "nextPageToken": ""}

    async def use(_server, source):
        assert [info.name for page in [page async for page in source.list_pages("")] for info in page] == ["x"]

    run(use, transport, (b"200 OK", gzip.compress(json.dumps(page).encode())))


@pytest.mark.parametrize(
    "body",
    [b'{"items":' + b"[" * 200_000, b"\x1f\x8bnone", gzip.compress(b"{}")[:-9], b"{}]"],
    ids=["nested", "no gzip", "cut gzip", "too long"],
)
def test_a_page_without_json_is_a_sentence(transport, body):
    async def use(server, source):
        error = await listing_error(source)
        assert error.cause == "not_json"
        assert "is it a GCS server" in str(error)
        assert server.requests == QUICK.max_attempts

    run(use, transport, (b"200 OK", body))


@pytest.mark.parametrize(
    "body",
    [endless, packed_zeros(256 << 20), b'{"error": {"message": ' + b"[" * 60_000],
    ids=["endless", "gzip", "nested"],
)
def test_the_body_of_an_error_is_bounded(transport, body):
    async def use(server, source):
        with pytest.raises(SourceError) as caught:
            await read(source, "x", 0, 1 << 20)
        assert caught.value.cause == "forbidden"
        assert server.sent < (1 << 20) + MAX_ERROR_BYTES + (16 << 20)
        assert (await listing_error(source)).cause == "forbidden"

    run(use, transport, (b"403 No", body))
    assert len(text_of(b"".join(packed_zeros(256 << 20)()))) == MAX_ERROR_TEXT_BYTES


def chunked(piece, times):
    """A chunked body of so many pieces."""

    def pieces():
        chunks = (b"%x\r\n%s\r\n" % (len(piece), piece)) * 1024
        yield from (chunks for _ in range(times // 1024))
        yield b"0\r\n\r\n"

    return pieces


def test_a_body_in_tiny_chunks_is_whole(transport):
    async def use(_server, source):
        assert await read(source, "x", 0, 1 << 20) == b"xy" * (1 << 12)

    run(use, transport, (b"200 OK\r\nTransfer-Encoding: chunked", chunked(b"xy", 1 << 12)))


def test_a_body_in_tiny_pieces_costs_its_size():
    pytest.importorskip("pycurl")
    curl_transfer = importlib.import_module("ringfeedd.storage.transport.curl_transfer")
    easy = curl_transfer.open_easy(None, None, http2=False)
    transfer = curl_transfer.Transfer(None, easy, 1 << 20, "x", None, [])
    tracemalloc.start()
    try:
        for _ in range(1 << 17):
            transfer._take(bytes(2))
        assert transfer.received == 1 << 18
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # as an object for each piece: 5 MiB
    finally:
        tracemalloc.stop()


def test_a_checksum_of_any_kind_is_not_built():
    items = b'{"items": [{"name": "p/x", "crc32c": [' + b"[]," * (1 << 19) + b"0]}]}"
    tracemalloc.start()
    try:
        assert msgspec.json.decode(items, type=Page, strict=False).objects("p/")[0].crc32c is None
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # as lists: 36 MiB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("listed", "crc32c"),
    [
        (b'"AAAA/w=="', 255),
        (b'"AAAA\\/w=="', 255),
        (b'"AAAA/w\\u003d="', 255),
        (b'"AAAA/w="', None),
        (b'"AAAAAAAAAA=="', None),
        (b'"\xc3\xa9"', None),
        (b'"' + b"A" * 5000 + b'"', None),
        (b"5", None),
        (b"null", None),
        (b'{"a": "AAAA/w=="}', None),
    ],
)
def test_a_checksum_is_four_bytes_or_none(listed, crc32c):
    page = msgspec.json.decode(b'{"items": [{"name": "x", "crc32c": ' + listed + b"}]}", type=Page)
    assert page.objects("")[0].crc32c == crc32c


def test_text_that_cannot_be_encoded_is_escaped_early(transport):
    """Where it enters."""

    async def use(_server, source):
        with pytest.raises(SourceError, match=r"It says") as caught:
            await read(source, "x", 0)
        assert "\\ud800" in str(caught.value)
        assert "\\ud800" in str(caught.value).encode().decode()
        assert str(await listing_error(source)).encode()

    run(use, transport, (b"403 No", b'{"error": {"message": "\\ud800 no"}}'))
    for error in (StartError("a\udc80"), BadPairError("a\udc80", cause="x"), SourceError("a\udc80", cause="x")):
        assert str(error) == "a\\udc80"


@pytest.mark.parametrize("bad", [Failed(0, 7, "\ud800", "x", 1), Decoded(0, 7, (1, 1, 1, 1), False, 2**70, {})])
def test_a_result_that_cannot_be_sent_is_replaced(bad):
    """By one that can."""
    good = Decoded(0, 8, (1, 1, 1, 1), False, 5, {})
    frame = messages.frame_of_results(Results([bad, good], StoreReport()))
    replaced, kept = messages._FROM_WORKER.decode(frame[4:]).results
    assert isinstance(replaced, Failed)
    assert (replaced.seq, replaced.cause, kept) == (7, "internal", good)
    assert messages.frame_of_results(Results([good], None)) == messages.frame(Results([good], None))


def pages_without_end(items):
    def answers():
        for number in range(10_000):
            page = {"items": [{"name": "p/x"}] * items, "nextPageToken": f"t{number}"}
            yield b"200 OK", json.dumps(page).encode()

    return answers()


def test_an_endless_listing_stops_at_its_bound(transport):
    async def use(server, source):
        error = await listing_error(source)
        assert "more than 1,000 objects (max_objects)" in str(error)
        assert not error.retryable
        assert server.requests == 11

    run(use, transport, *pages_without_end(100), max_objects=1000)


def test_a_page_token_is_bounded(transport):
    page = json.dumps({"items": [{"name": "p/x"}], "nextPageToken": "t" * 5000}).encode()

    async def use(server, source):
        assert "page token of 5,000 characters" in str(await listing_error(source))
        assert server.requests == 1

    run(use, transport, (b"200 OK", page))


@pytest.mark.parametrize("asked", [b"3600", b"nan", b"-3", b"inf"])
def test_a_listing_never_sleeps_beyond_its_own_time(transport, asked):
    async def use(_server, source):
        began = time.monotonic()
        assert (await listing_error(source)).cause == "http_503"
        assert time.monotonic() - began < 3

    run(use, transport, (b"503 No\r\nRetry-After: " + asked, b""), listing_wait_s=1.0)


def test_a_huge_object_does_not_shrink_read_ahead():
    names = [f"{kind}/{number}.{suffix}" for kind, suffix in SIDES for number in range(1000)]
    catalog = asyncio.run(build_catalog(ListedSource(names), KeyTemplates.parse()))
    before = catalog.mean_pair_bytes
    sizes = catalog.images.size.copy()
    sizes[7] = 2**63 - 1
    object.__setattr__(catalog.images, "size", sizes)
    assert catalog.mean_pair_bytes == pytest.approx(before, rel=0.01)
    assert sizes.dtype == np.uint64
