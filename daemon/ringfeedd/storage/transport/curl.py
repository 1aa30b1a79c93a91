"""The transport by libcurl: a third of the CPU that aiohttp takes for a small object."""

from __future__ import annotations

import pycurl

from ringfeedd.storage.base import OnEnd, Reading
from ringfeedd.storage.transport.curl_errors import CLOSED
from ringfeedd.storage.transport.curl_loop import CurlLoop
from ringfeedd.storage.transport.curl_transfer import Transfer, open_easy
from ringfeedd.storage.transport.proxy import proxy_for


class CurlTransport:
    """GET by pycurl, one handle for each request under way, which are used again and again; see `Transport`."""

    def __init__(self, api_root: str, *, concurrency: int, http2: bool = False) -> None:
        """Inside the event loop that will use it; see `GcsSource` for the arguments.

        Args:
            http2: over TLS; it costs more (`docs/adr/0016`), and is here to be measured.
        """
        self._api_root, self._http2 = api_root, http2
        self._proxy = proxy_for(api_root)
        self._curl = CurlLoop(concurrency)
        self._authorization: str | None = None
        self._idle: list[pycurl.Curl] = []

    def __repr__(self) -> str:
        return f"CurlTransport({self._api_root}, {self._curl!r})"

    def begin(self, url: str, authorization: str | None, max_bytes: int, what: str, on_end: OnEnd) -> Reading:
        """See `Transport.begin`."""
        if authorization != self._authorization:
            self._authorization, self._idle = authorization, []  # which would send another one
        idle = self._idle
        easy = idle.pop() if idle else open_easy(authorization, self._proxy, http2=self._http2)
        transfer = Transfer(self._curl, easy, max_bytes, what, on_end, idle)
        easy.setopt(pycurl.URL, url)
        self._curl.begin(easy, transfer.end)
        return transfer

    async def close(self) -> None:
        """See `Transport.close`."""
        self._curl.close(CLOSED)
