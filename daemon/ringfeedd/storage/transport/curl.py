"""The transport by libcurl: a third of the CPU that aiohttp takes for a small object."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ringfeedd.storage.base import OnEnd, Reading, SourceError
from ringfeedd.storage.transport.curl_errors import CLOSED, SILENT, error_from_curl
from ringfeedd.storage.transport.curl_loop import CurlLoop, Ended
from ringfeedd.storage.transport.curl_transfer import Transfer
from ringfeedd.storage.transport.proxy import proxy_for

_LATE: Final = 0.1
"""A timer that rings late by this share of the read timeout tells of a loop that was held up."""


class CurlTransport:
    """GET by pycurl, one handle for each request under way, which are used again and again; see `Transport`."""

    def __init__(self, api_root: str, *, concurrency: int, read_timeout_s: float, http2: bool = False) -> None:
        """Inside the event loop that will use it; see `GcsSource` for the arguments.

        Args:
            http2: over TLS; it costs more (`docs/adr/0016`), and is here to be measured.
        """
        self._api_root, self._read_timeout_s, self._http2 = api_root, read_timeout_s, http2
        self._proxy = proxy_for(api_root)
        self._loop = asyncio.get_running_loop()
        self._curl = CurlLoop(concurrency)
        self._idle: list[Transfer] = []
        self._flying: set[Transfer] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"CurlTransport({self._api_root}, {len(self._flying)} in flight)"

    def begin(self, url: str, authorization: str | None, max_bytes: int, what: str, on_end: OnEnd) -> Reading:
        """See `Transport.begin`."""
        if self._closed:
            return _Refused(self._loop, what, on_end)
        transfer = self._idle.pop() if self._idle else Transfer(self._curl, self._loop.time, self._proxy, self._http2)
        transfer.prepare(url, authorization, max_bytes)
        self._flying.add(transfer)
        if self._watch is None:
            self._watch_until(self._loop.time() + self._read_timeout_s)
        request = _Request(self._curl, transfer, what, on_end, self._land)
        self._curl.begin(transfer.easy, request.end)
        return request

    def _land(self, transfer: Transfer) -> None:
        self._flying.discard(transfer)
        transfer.forget()
        self._idle.append(transfer)

    async def close(self) -> None:
        """See `Transport.close`."""
        if not self._closed:
            self._closed = True
            if self._watch is not None:
                self._watch.cancel()
            self._curl.close(CLOSED)

    def _cut_the_silent(self) -> None:
        """One timer for all: it rings when the transfer that has been silent for longest would be to be cut."""
        assert self._watch is not None
        now = self._loop.time()
        if now - self._watch.when() > _LATE * self._read_timeout_s:
            # The loop was held up for an unknown time: it received nothing, and the server was not silent.
            for transfer in self._flying:
                transfer.excuse(now)
        self._watch = None
        due = [(transfer.heard() + self._read_timeout_s, transfer) for transfer in self._flying]
        for moment, transfer in due:
            if moment <= now:
                self._curl.cut(transfer.easy, SILENT)
        waiting = [moment for moment, _ in due if moment > now]
        if waiting:
            self._watch_until(min(waiting))

    def _watch_until(self, moment: float) -> None:
        if self._watch is not None:
            self._watch.cancel()  # of a request that began as another was cut: it will be looked at sooner
        self._watch = self._loop.call_at(moment, self._cut_the_silent)


class _Request:
    """One request under way; its transfer is used again once it has ended, this is not."""

    __slots__ = ("_curl", "_land", "_on_end", "_transfer", "_what")

    def __init__(
        self, curl: CurlLoop, transfer: Transfer, what: str, on_end: OnEnd, land: Callable[[Transfer], None]
    ) -> None:
        self._curl, self._what, self._land = curl, what, land
        self._transfer: Transfer | None = transfer
        self._on_end: OnEnd | None = on_end

    @property
    def received(self) -> int | None:
        """See `Reading.received`."""
        return None if self._transfer is None else self._transfer.received

    def end(self, ended: Ended) -> None:
        """It has ended, well or not."""
        transfer, on_end = self._transfer, self._on_end
        assert transfer is not None
        self._transfer = self._on_end = None
        result: bytes | SourceError
        try:
            result = transfer.body(ended, self._what)
        except SourceError as error:
            result = error
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one object, and be told
            result = SourceError(f"{self._what}: {type(error).__name__}: {error}", cause="internal")
        self._land(transfer)
        if on_end is not None:
            on_end(result)

    def cancel(self) -> None:
        """End it, unless it has ended; no callback is called."""
        if self._transfer is not None:
            self._on_end = None
            self._curl.cut(self._transfer.easy, CLOSED)


class _Refused:
    """A request of a transport that is closed."""

    received = None

    def __init__(self, loop: asyncio.AbstractEventLoop, what: str, on_end: OnEnd) -> None:
        error = error_from_curl(CLOSED, connected=False, answered=False, what=what)
        self._handle = loop.call_soon(on_end, error)

    def cancel(self) -> None:
        """See `Reading.cancel`."""
        self._handle.cancel()
