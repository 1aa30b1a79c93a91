"""One request by libcurl: what is asked, and what came."""

from __future__ import annotations

import ssl
from typing import Final

import pycurl

from ringfeedd.storage.base import OnEnd, SourceError
from ringfeedd.storage.payload import text_of
from ringfeedd.storage.transport.base import CONNECT_TIMEOUT_S
from ringfeedd.storage.transport.curl_errors import CLOSED, error_from_curl
from ringfeedd.storage.transport.curl_loop import CurlLoop, Ended
from ringfeedd.storage.transport.http_errors import error_from_status

_BUFFER_BYTES: Final = 1 << 18
"""What libcurl receives at a time; it hands on 16 kB at a time, whatever it received."""

_MOST_PIECES: Final = 64
"""Of a body that are kept as they came: a server may send two bytes at a time, each piece with an object's overhead."""

_SLACK_BYTES: Final = 1 << 15
"""How much longer than asked for a body may grow: the JSON of an error may be longer than the object would be."""

_DNS_TTL_S: Final = 60


class Transfer:
    """One request under way; its handle is used again once it has ended.

    Attributes:
        received: see `Reading.received`.
    """

    __slots__ = ("_curl", "_easy", "_idle", "_limit", "_on_end", "_pieces", "_rest", "_what", "received")

    def __init__(
        self, curl: CurlLoop, easy: pycurl.Curl, max_bytes: int, what: str, on_end: OnEnd, idle: list[pycurl.Curl]
    ) -> None:
        """Prepare a handle for it; see `Transport.begin`.

        Args:
            curl: that will run it.
            easy: from `open_easy`.
            idle: where the handle goes in the end.
        """
        self._curl, self._easy, self._what, self._idle = curl, easy, what, idle
        self._on_end: OnEnd | None = on_end
        self._limit = max_bytes + _SLACK_BYTES
        self._pieces: list[bytes] = []
        self._rest = bytearray()
        self.received = 0
        easy.setopt(pycurl.WRITEFUNCTION, self._take)

    def cancel(self) -> None:
        """End it, unless it has ended; no callback is called."""
        if self._on_end is not None:
            self._on_end = None
            self._curl.cut(self._easy, CLOSED)

    def end(self, ended: Ended) -> None:
        """It has ended, well or not."""
        on_end, self._on_end = self._on_end, None
        result: bytes | SourceError
        try:
            result = self._body(ended)
        except SourceError as error:
            result = error
        except Exception as error:  # noqa: BLE001  # a defect of ours must cost one object, and be told
            result = SourceError(f"{self._what}: {type(error).__name__}: {error}", cause="internal")
        self._pieces, self._rest = [], bytearray()  # the handle holds on to this
        self._idle.append(self._easy)
        if on_end is not None:
            on_end(result)

    def _body(self, ended: Ended) -> bytes:
        """What came of it. Raises: `SourceError` unless it is a 200 with a body; see `Transport`."""
        easy, what = self._easy, self._what
        status: int = easy.getinfo(pycurl.RESPONSE_CODE)
        enough = ended.code == pycurl.E_WRITE_ERROR and self.received > self._limit
        if ended.code and not enough:
            raise error_from_curl(ended, answered=bool(status), what=what, system_error=easy.getinfo(pycurl.OS_ERRNO))
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join([*self._pieces, self._rest])
        if enough:
            body = body[: self._limit + 1]  # the last piece may be a big one
        if status == 200:
            return body
        wait_s: int = easy.getinfo(pycurl.RETRY_AFTER)
        headers = {"Retry-After": str(wait_s)} if wait_s else {}
        raise error_from_status(status, headers, text_of(body), what)

    def _take(self, piece: bytes) -> int | None:
        if len(self._pieces) < _MOST_PIECES:
            self._pieces.append(piece)
        else:
            self._rest += piece
        self.received += len(piece)
        return None if self.received <= self._limit else 0  # 0: libcurl ends the transfer, and closes the connection


def open_easy(authorization: str | None, proxy: str | None, *, http2: bool) -> pycurl.Curl:
    """A handle for one request after another; it takes a connection that is open where there is one.

    Redirects, cookies, netrc and unpacking are off unless one asks for them.

    Args:
        authorization: the value of that header; None for none.
        proxy: its URL; None: directly.
        http2: over TLS, all requests on one connection.
    """
    # gzip: else the server unpacks gzip, and nothing fits the listing any more
    headers = ["Accept-Encoding: gzip"]
    if authorization is not None:
        headers.append(f"Authorization: {authorization}")
    options: dict[int, object] = {
        pycurl.HTTPHEADER: headers,
        pycurl.PROXY: proxy or "",  # empty: not even what the environment says by now
        pycurl.NOPROXY: "",  # that was looked at already, see `proxy_for`
        pycurl.NOSIGNAL: 1,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_2TLS if http2 else pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.PIPEWAIT: int(http2),
        pycurl.PATH_AS_IS: 1,  # else an object of the name ".." would be another folder
        pycurl.USERAGENT: "ringfeed",
        pycurl.BUFFERSIZE: _BUFFER_BYTES,
        pycurl.TCP_KEEPALIVE: 1,
        pycurl.DNS_CACHE_TIMEOUT: _DNS_TTL_S,
        pycurl.CONNECTTIMEOUT_MS: int(CONNECT_TIMEOUT_S * 1000),
        pycurl.SSL_VERIFYPEER: 1,
        pycurl.SSL_VERIFYHOST: 2,
        pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,
    }
    # A wheel's libcurl may look for certificates where another distribution keeps them: Python knows this machine's.
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        options[pycurl.CAINFO] = paths.cafile
    if paths.capath:
        options[pycurl.CAPATH] = paths.capath
    easy = pycurl.Curl()
    for option, value in options.items():
        easy.setopt(option, value)
    return easy
