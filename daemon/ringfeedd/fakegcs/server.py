"""The server: GCS's JSON API for reading, over a `Store`, with faults on command and every request counted."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import re
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote

from aiohttp import web

from .faults import Fault, Operation, faults_of, parse_fault
from .hostile import hostile_answer
from .limit import RateLimit
from .store import FolderStore, MemoryStore, Store, StoredObject, page_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence

MAX_PAGE = 1000

_LISTING = re.compile(r"/storage/v1/b/([^/]+)/o")
_OBJECT = re.compile(r"(/download)?/storage/v1/b/([^/]+)/o/(.+)")
_ITEM_FIELDS = re.compile(r"items\(([^)]*)\)")


class FakeGcs:
    """A server on a free port of this machine, for as long as its ``async with`` block lasts.

    Attributes:
        url: its address, for ``emulator=``.
        requests: ``(operation, "bucket/name")`` -> how many requests came; operations are list, metadata, read, token.
        busiest: the most requests that were in flight at once.
        faults: what goes wrong; a test may replace it at any moment, a person by ``POST /_faults``.
        page_objects: the most objects in a page of a listing.
        limit: of the reads; what is beyond it is answered with 429. None for none.
        faults_in_a_row: after so many faults of one name, its next request is answered well. None for no bound.
        requester_pays: buckets of which only requests that name a ``userProject`` get anything.
        tokens: when not empty, only requests that carry one of these as a bearer are answered; ``POST /token`` gives
            the last one.
    """

    def __init__(
        self,
        buckets: Mapping[str, MutableMapping[str, bytes]] | Path,
        faults: Sequence[Fault] = (),
        *,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        page_objects: int = MAX_PAGE,
        reads_per_s: float | None = None,
        faults_in_a_row: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._store: Store = FolderStore(buckets) if isinstance(buckets, Path) else MemoryStore(buckets)
        self._seed, self._host, self._port = seed, host, port
        self.faults, self.page_objects = faults, page_objects
        self.limit = None if reads_per_s is None else RateLimit(reads_per_s)
        self.faults_in_a_row = faults_in_a_row
        self._in_a_row: Counter[str] = Counter()
        self.tokens: list[str] = []
        self.requester_pays: frozenset[str] = frozenset()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.url, self.busiest, self._in_flight = "", 0, 0
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._count)
        # cancellation: a stalled answer ends when its client gives up, not when the server does
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._tls)
        await site.start()
        scheme, host = ("http", self._host) if self._tls is None else ("https", "localhost")
        self.url = f"{scheme}://{host}:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        assert self._runner is not None
        await self._runner.cleanup()

    def count(self, operation: str) -> int:
        """How many requests of one kind came."""
        return sum(number for (kind, _), number in self.requests.items() if kind == operation)

    async def _count(self, request: web.Request) -> web.StreamResponse:
        self._in_flight += 1
        self.busiest = max(self.busiest, self._in_flight)
        try:
            return await self._own_page(request) or await self._api(request)
        finally:
            self._in_flight -= 1

    async def _own_page(self, request: web.Request) -> web.Response | None:
        """What Google's service does not have, or has elsewhere: the faults, the counts, and tokens."""
        if request.path == "/_faults":
            return await self._control(request)
        if request.path == "/_limit":
            passed, refused = (self.limit.passed, self.limit.refused) if self.limit else (0, 0)
            return web.json_response({"passed": passed, "refused": refused})
        if request.path == "/_requests":  # for tests and demonstrations in other processes
            return web.json_response({f"{kind} {name}": n for (kind, name), n in sorted(self.requests.items())})
        if request.path == "/token":
            self.requests["token", ""] += 1
            token = self.tokens[-1] if self.tokens else "anyone"
            return web.json_response({"access_token": token, "expires_in": 3600})
        return None

    async def _control(self, request: web.Request) -> web.Response:
        """Show the faults (GET), put others in their place (POST, as on the command line), or end all (DELETE)."""
        if request.method == "POST":
            try:
                self.faults = [parse_fault(word) for word in (await request.text()).split()]
            except ValueError as error:
                return web.Response(status=400, text=f"{error}\n")
        elif request.method == "DELETE":
            self.faults = ()
        return web.json_response([dataclasses.asdict(fault) for fault in self.faults])

    async def _api(self, request: web.Request) -> web.StreamResponse:
        # the raw path, because %2F within a name does not separate
        path = request.raw_path.partition("?")[0]
        if self.tokens and request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _refusal(401, "Invalid Credentials")
        if request.method != "GET":
            return _refusal(405, "This server can only be read from.")
        if found := _LISTING.fullmatch(path):
            return await self._answer(request, "list", unquote(found[1]), request.query.get("prefix", ""))
        if found := _OBJECT.fullmatch(path):
            media = bool(found[1]) or request.query.get("alt") == "media"
            return await self._answer(request, "read" if media else "metadata", unquote(found[2]), unquote(found[3]))
        return _refusal(404, "Not Found")

    async def _answer(self, request: web.Request, operation: Operation, bucket: str, name: str) -> web.StreamResponse:
        number = self.requests[operation, f"{bucket}/{name}"]
        self.requests[operation, f"{bucket}/{name}"] += 1
        delay_s, fault = faults_of(self.faults, operation, name, number, self._seed)
        fault = self._bounded(fault, name)
        if operation == "read" and self.limit is not None and not self.limit.allows(time.monotonic()):
            fault = Fault("status", status=429)
        if delay_s:
            await asyncio.sleep(delay_s)
        if fault is not None and (fault.kind == "silent" or (fault.kind == "stall" and operation != "read")):
            await self._stopping.wait()
            fault = Fault("reset")
        if fault is not None:
            hostile = partial(hostile_answer, operation, name, number, self._seed)
            if (response := _early_fault(request, fault, hostile)) is not None:
                return response
        if bucket in self.requester_pays and not request.query.get("userProject"):
            return _refusal(400, "Bucket is a requester pays bucket but no user project provided.")
        if operation == "list":
            return self._listing(request, bucket, name)
        found = self._store.get(bucket, name)
        if found is None or request.query.get("generation", str(found.generation)) != str(found.generation):
            return _refusal(404, f"No such object: {bucket}/{name}")
        if operation == "metadata":
            return web.json_response(found.resource(bucket))
        return await self._media(request, found, fault, bucket)

    def _bounded(self, fault: Fault | None, name: str) -> Fault | None:
        """The fault of a name's next request; None after `faults_in_a_row` of them."""
        if self.faults_in_a_row is None:
            return fault
        fault = None if self._in_a_row[name] >= self.faults_in_a_row else fault
        self._in_a_row[name] = 0 if fault is None else self._in_a_row[name] + 1
        return fault

    def _listing(self, request: web.Request, bucket: str, prefix: str) -> web.Response:
        names = self._store.names(bucket, prefix)
        if names is None:
            return _refusal(404, "The specified bucket does not exist.")
        query = request.query
        size = min(int(query.get("maxResults", MAX_PAGE)), self.page_objects, MAX_PAGE)
        page, last = page_of(names, base64.urlsafe_b64decode(query.get("pageToken", "")).decode(), size)
        items = [found.resource(bucket) for name in page if (found := self._store.get(bucket, name))]
        if fields := _ITEM_FIELDS.search(query.get("fields", "")):
            wanted = set(fields[1].split(","))
            items = [{key: value for key, value in item.items() if key in wanted} for item in items]
        content: dict[str, object] = {"items": items} if items else {}
        if last is not None:
            content["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
        return web.json_response(content)

    async def _media(
        self, request: web.Request, found: StoredObject, fault: Fault | None, bucket: str
    ) -> web.StreamResponse:
        data = found.data
        half = len(data) // 2
        if fault is not None and fault.kind == "flip" and data:
            data = data[:half] + bytes([data[half] ^ 0x10]) + data[half + 1 :]
        if fault is not None and fault.kind == "short":
            data = data[:half]
        headers = {
            "x-goog-generation": str(found.generation),
            "x-goog-hash": f"crc32c={found.resource(bucket)['crc32c']}",
        }
        if fault is not None and fault.kind in ("cut", "endless"):
            return await _unannounced(request, data[:half], endless=fault.kind == "endless")
        if fault is None or fault.kind not in ("reset_body", "truncate", "chunked", "stall"):
            return web.Response(body=data, headers=headers, content_type="application/octet-stream")
        response = web.StreamResponse(headers=headers)
        if fault.kind == "chunked":
            response.enable_chunked_encoding()
        else:
            response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[:half])
        if fault.kind == "stall":
            await self._stopping.wait()
        if request.transport is not None and fault.kind == "reset_body":
            request.transport.abort()
        elif request.transport is not None:
            request.transport.close()  # not abort(): what was written shall arrive
        return response


async def _unannounced(request: web.Request, data: bytes, *, endless: bool) -> web.StreamResponse:
    """A body without a length, which ends where the connection does; past aiohttp, which would send it in chunks."""
    transport = request.transport
    if transport is not None:
        transport.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data)
        while endless and not transport.is_closing():
            transport.write(data or b" ")
            await asyncio.sleep(0)
        transport.close()
    return web.Response()  # goes nowhere


def _early_fault(request: web.Request, fault: Fault, hostile: Callable[[], web.Response]) -> web.Response | None:
    """The answer of a fault that needs no object; None for the others."""
    if fault.kind == "hostile":
        return hostile()
    if fault.kind == "status":
        headers = {} if fault.retry_after_s is None else {"Retry-After": f"{fault.retry_after_s:g}"}
        return _refusal(fault.status, "This failure was asked for.", headers)
    if fault.kind == "html":
        return web.Response(text="<!DOCTYPE html><title>Sign in</title>", content_type="text/html")
    if fault.kind in ("redirect", "moved"):
        return web.Response(status=302, headers={"Location": "/_requests"} if fault.kind == "moved" else {})
    if fault.kind == "reset":
        if request.transport is not None:
            request.transport.abort()
        return web.Response()  # goes nowhere
    return None


def _refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as the JSON API words it."""
    content = {"error": {"code": status, "message": message}}
    return web.json_response(content, status=status, headers=headers)


@contextlib.contextmanager
def serve_in_thread(server: FakeGcs) -> Iterator[FakeGcs]:
    """Serve from an event loop in a thread of its own: for callers without a loop, and for child processes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fakegcs", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
