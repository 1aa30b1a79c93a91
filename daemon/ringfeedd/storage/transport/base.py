"""The transport: how the bytes of one object come over HTTP, apart from whose they are and what they must be."""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

from ringfeedd.storage.base import READ_TIMEOUT_S, OnEnd, Reading, ended

TransportName: TypeAlias = Literal["auto", "gcloud", "curl"]
"""``"gcloud"``: aiohttp, as gcloud-aio-storage uses it. ``"curl"``: libcurl; the extra ``fast`` brings it. ``"auto"``:
libcurl where it is installed."""

DEFAULT_TRANSPORT: Final[TransportName] = "auto"
CONNECT_TIMEOUT_S: Final = 10.0
MAX_ERROR_BYTES: Final = 1 << 16
"""The part of an error's body that is read; libcurl does not tell the status before the end, and reads what was asked
for."""


class Transport(Protocol):
    """Sends GET requests; one for each event loop.

    Implementations: `ringfeedd.storage.transport.aiohttp.AiohttpTransport`,
    `ringfeedd.storage.transport.curl.CurlTransport`. None of them follows a redirect, keeps a cookie, unpacks a body or
    tries again what the server answered; each verifies TLS, and cancelling a request ends its transfer. None waits
    for a free connection, or cuts a server that is silent: the caller counts, and looks at what was received.
    """

    def begin(self, url: str, authorization: str | None, max_bytes: int, what: str, on_end: OnEnd) -> Reading:
        """Ask for the body of a 200.

        Args:
            url: complete and percent-encoded: it is sent as it stands.
            authorization: the value of that header; None for none.
            max_bytes: what is longer comes longer than this, and not whole.
            what: begins the sentence of an error, e.g. ``gs://b/x cannot be read``.
            on_end: called once, never from in here, with the body, or with the `SourceError` for another status or an
                answer that is not whole.
        """
        ...

    async def close(self) -> None:
        """Close the connections; requests in flight fail."""
        ...


async def get(
    transport: Transport,
    url: str,
    authorization: str | None,
    max_bytes: int,
    what: str,
    silent_s: float = READ_TIMEOUT_S,
) -> bytes:
    """Return the body of a 200; see `Transport.begin` and `ended`. Raises: SourceError."""
    return await ended(lambda on_end: transport.begin(url, authorization, max_bytes, what, on_end), what, silent_s)
