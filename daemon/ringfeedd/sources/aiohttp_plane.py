"""The data plane by aiohttp, which gcloud-aio-storage uses as well."""

from __future__ import annotations

import aiohttp
from yarl import URL

from .aiohttp_errors import error_from_transport
from .http_errors import error_from_status
from .payload import text_of
from .plane import CONNECT_TIMEOUT_S, MAX_ERROR_BYTES
from .proxy import proxy_for

DNS_TTL_S = 60
_PIECE_BYTES = 1 << 16


class AiohttpPlane:
    """GET by a session of its own: reads need not queue behind listings; see `Plane`."""

    begin = None

    def __init__(self, api_root: str, *, concurrency: int, read_timeout_s: float) -> None:
        """Inside the event loop that will use it; see `GcsSource` for the arguments."""
        # No total: it would include the wait for a free connection, and a long queue would look like a dead server.
        self._session = open_session(api_root, concurrency, client_timeout(read_timeout_s, total_s=None))

    async def get(self, url: str, authorization: str | None, max_bytes: int | None, what: str) -> bytes:
        """See `Plane.get`."""
        headers = {"Accept-Encoding": "gzip"}  # else the server unpacks gzip, and nothing fits the listing any more
        if authorization is not None:
            headers["Authorization"] = authorization
        address = URL(url, encoded=True)
        try:
            async with self._session.get(address, headers=headers, allow_redirects=False) as response:
                if response.status == 200:
                    return await _body(response, max_bytes)
                text = text_of(await _body(response, MAX_ERROR_BYTES))
                raise error_from_status(response.status, response.headers, text, what)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise error_from_transport(error, what) from error

    async def close(self) -> None:
        """See `Plane.close`."""
        await self._session.close()


def client_timeout(read_timeout_s: float, *, total_s: float | None) -> aiohttp.ClientTimeout:
    """For connecting, and for silence; `total_s` for all of it, the wait for a free connection included."""
    return aiohttp.ClientTimeout(total=total_s, connect=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=read_timeout_s)


def open_session(
    api_root: str, connections: int, timeout: aiohttp.ClientTimeout, *traces: aiohttp.TraceConfig
) -> aiohttp.ClientSession:
    """A session of a source.

    Not with trust_env: aiohttp would look through netrc and the environment in two threads for every request. The proxy
    is looked up once.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=DNS_TTL_S),
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        proxy=proxy_for(api_root),
        trace_configs=list(traces),
    )


async def _body(response: aiohttp.ClientResponse, max_bytes: int | None) -> bytes:
    """The whole body, or a little more than `max_bytes` of it."""
    if max_bytes is None or (response.content_length is not None and response.content_length <= max_bytes):
        return await response.read()
    body = bytearray()
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        body += piece
        if len(body) > max_bytes:
            response.close()  # what is still to come would have to be read before the connection could be used again
            break
    return bytes(body)
