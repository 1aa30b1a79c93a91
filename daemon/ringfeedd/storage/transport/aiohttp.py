"""The transport by aiohttp, which gcloud-aio-storage uses as well."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import aiohttp
from yarl import URL

from ringfeedd.storage.base import OnEnd, Reading, TaskReading
from ringfeedd.storage.payload import text_of
from ringfeedd.storage.transport.aiohttp_errors import error_from_transport
from ringfeedd.storage.transport.base import CONNECT_TIMEOUT_S, MAX_ERROR_BYTES
from ringfeedd.storage.transport.http_errors import MAX_HEADER_BYTES, error_from_status
from ringfeedd.storage.transport.proxy import proxy_for

DNS_TTL_S = 60


class AiohttpTransport:
    """GET by a session of its own; see `Transport`."""

    def __init__(self, api_root: str) -> None:
        """Inside the event loop that will use it; `api_root` is scheme and host."""
        self._session = _open_session(api_root)

    def begin(self, url: str, authorization: str | None, max_bytes: int, what: str, on_end: OnEnd) -> Reading:
        """See `Transport.begin`."""
        headers = {"Accept-Encoding": "gzip"}  # else the server unpacks gzip, and nothing fits the listing any more
        if authorization is not None:
            headers["Authorization"] = authorization
        request = self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False)
        return _Get(request, max_bytes, what, on_end)

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._session.close()


def _open_session(api_root: str) -> aiohttp.ClientSession:
    """A session of a source.

    Not with trust_env: aiohttp would look through netrc and the environment in two threads for every request. The proxy
    is looked up once.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=DNS_TTL_S),
        # no total: that is the caller's decision
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        proxy=proxy_for(api_root),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


class _Get(TaskReading):
    """One request under way."""

    def __init__(
        self, request: AbstractAsyncContextManager[aiohttp.ClientResponse], max_bytes: int, what: str, on_end: OnEnd
    ) -> None:
        super().__init__(self._get(request, max_bytes, what), on_end)
        self.received = 0

    async def _get(
        self, request: AbstractAsyncContextManager[aiohttp.ClientResponse], max_bytes: int, what: str
    ) -> bytes:
        try:
            async with request as response:
                if response.status == 200:
                    return await self._body(response, max_bytes)
                text = text_of(await self._body(response, MAX_ERROR_BYTES))
                raise error_from_status(response.status, response.headers, text, what)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise error_from_transport(error, what) from error

    async def _body(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        """The whole body, or a little more than `max_bytes` of it."""
        first = await response.content.readany()
        if len(first) == response.content_length:  # nearly always
            await response.read()
            return first
        body = bytearray(first)
        while len(body) <= max_bytes:
            self.received = len(body)
            piece = await response.content.readany()
            if not piece:
                return bytes(body)
            body += piece
        response.close()  # what is still to come would have to be read before the connection could be used again
        return bytes(body[: max_bytes + 1])
