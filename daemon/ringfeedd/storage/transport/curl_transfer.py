"""One easy handle of libcurl, used for one request after another: what is asked, what came, and when."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

import pycurl

from ringfeedd.storage.payload import text_of
from ringfeedd.storage.transport.base import CONNECT_TIMEOUT_S
from ringfeedd.storage.transport.curl_errors import error_from_curl
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
    """The state of one request at a time.

    Attributes:
        easy: libcurl's handle; it takes a connection that is open where there is one.
    """

    def __init__(self, curl: CurlLoop, now: Callable[[], float], proxy: str | None, http2: bool) -> None:
        """Set what stays the same for all requests.

        Args:
            curl: that will run it.
            now: the event loop's time, seconds.
            proxy: its URL; None: directly.
            http2: over TLS, all requests on one connection.
        """
        self._curl, self._now = curl, now
        self._began = self._heard = 0.0
        self._pieces: list[bytes] = []
        self._rest = bytearray()
        self._size = self._limit = 0
        self._authorization: str | None = None
        self.easy = easy = pycurl.Curl()
        for option, value in _fixed_options().items():
            easy.setopt(option, value)
        if http2:
            easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
            easy.setopt(pycurl.PIPEWAIT, 1)
        easy.setopt(pycurl.PROXY, proxy or "")  # empty: not even what the environment says by now
        easy.setopt(pycurl.WRITEFUNCTION, self._take)
        self._set_headers(None)

    def prepare(self, url: str, authorization: str | None, max_bytes: int) -> None:
        """Set what this request asks for; see `Transport.begin`."""
        self.easy.setopt(pycurl.URL, url)
        if authorization != self._authorization:
            self._set_headers(authorization)
        self._limit = max_bytes + _SLACK_BYTES
        self.forget()
        self._size = 0
        self._began = self._heard = self._now()

    def heard(self) -> float:
        """When the server last sent something, as the event loop counts time; seconds.

        While there is no connection it is the last moment at which libcurl will give it up by itself.
        """
        sent_us: int = self.easy.getinfo(pycurl.PRETRANSFER_TIME_T)
        if not sent_us:
            return max(self._heard, self._began + CONNECT_TIMEOUT_S)
        head_us: int = self.easy.getinfo(pycurl.STARTTRANSFER_TIME_T)
        return max(self._heard, self._began + max(sent_us, head_us) / 1e6)

    def excuse(self, now: float) -> None:
        """Count the server's silence from `now` on: the event loop stood still, and received nothing."""
        self._heard = now

    def body(self, ended: Ended, what: str) -> bytes:
        """What came of it, once it has ended. Raises: `SourceError` unless it is a 200 with a body; see `Transport`."""
        status: int = self.easy.getinfo(pycurl.RESPONSE_CODE)
        enough = ended.code == pycurl.E_WRITE_ERROR and self._size > self._limit
        if ended.code and not enough:
            connected = bool(self.easy.getinfo(pycurl.REQUEST_SIZE))  # the times are filled in at a failure, too
            system_error: int = self.easy.getinfo(pycurl.OS_ERRNO)
            raise error_from_curl(
                ended, connected=connected, answered=bool(status), what=what, system_error=system_error
            )
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join([*self._pieces, self._rest])
        if enough:
            body = body[: self._limit + 1]  # the last piece may be a big one
        if status == 200:
            return body
        wait_s: int = self.easy.getinfo(pycurl.RETRY_AFTER)
        headers = {"Retry-After": str(wait_s)} if wait_s else {}
        raise error_from_status(status, headers, text_of(body), what)

    @property
    def received(self) -> int:
        """Bytes of the body that came so far."""
        return self._size

    def forget(self) -> None:
        """Release the body."""
        self._pieces, self._rest = [], bytearray()

    def _take(self, piece: bytes) -> int | None:
        if len(self._pieces) < _MOST_PIECES:
            self._pieces.append(piece)
        else:
            self._rest += piece
        self._size += len(piece)
        self._heard = self._curl.turn_at
        return None if self._size <= self._limit else 0  # 0: libcurl ends the transfer, and closes the connection

    def _set_headers(self, authorization: str | None) -> None:
        # gzip: else the server unpacks gzip, and nothing fits the listing any more
        headers = ["Accept-Encoding: gzip"]
        if authorization is not None:
            headers.append(f"Authorization: {authorization}")
        self.easy.setopt(pycurl.HTTPHEADER, headers)
        self._authorization = authorization


def _fixed_options() -> dict[int, int | str]:
    """What every handle is told; redirects, cookies, netrc and unpacking are off unless one asks for them."""
    options: dict[int, int | str] = {
        pycurl.NOSIGNAL: 1,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.PATH_AS_IS: 1,  # else an object of the name ".." would be another folder
        pycurl.NOPROXY: "",  # that was looked at already, see `proxy_for`
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
    return options
