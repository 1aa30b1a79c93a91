"""The data plane: how the bytes of one object come over HTTP, apart from whose they are and what they must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeAlias

from .base import OnEnd

PlaneName: TypeAlias = Literal["auto", "gcloud", "curl"]
"""``"gcloud"``: aiohttp, as gcloud-aio-storage uses it. ``"curl"``: libcurl; the extra ``fast`` brings it. ``"auto"``:
libcurl where it is installed."""

DEFAULT_PLANE: Final[PlaneName] = "auto"
CONNECT_TIMEOUT_S: Final = 10.0
MAX_ERROR_BYTES: Final = 1 << 16
"""Of the body of an answer that is no 200; libcurl does not tell the status before the end, and reads what was asked
for."""


class Begin(Protocol):
    """`Plane.get` without a task."""

    def __call__(
        self, url: str, authorization: str | None, max_bytes: int | None, what: str, on_end: OnEnd
    ) -> Callable[[], None] | None:
        """Send a request; see `BeginRead`, of which this is the transport."""
        ...


class Plane(Protocol):
    """Sends GET requests, so many at a time; one for each event loop.

    Implementations: `ringfeedd.sources.aiohttp_plane.AiohttpPlane`, `ringfeedd.sources.curl_plane.CurlPlane`. None of
    them follows a redirect, keeps a cookie, unpacks a body or tries again what the server answered; each verifies TLS,
    and cancelling a request ends its transfer.
    """

    async def get(self, url: str, authorization: str | None, max_bytes: int | None, what: str) -> bytes:
        """The body of a 200.

        Args:
            url: complete and percent-encoded: it is sent as it stands.
            authorization: the value of that header; None for none.
            max_bytes: what is longer comes back longer than this, and not whole; None for no limit.
            what: begins the sentence of an error, e.g. ``gs://b/x cannot be read``.

        Raises:
            SourceError: another status, or no whole answer.
        """
        ...

    @property
    def begin(self) -> Begin | None:
        """`get` without a task, and without waiting for a free connection; None where there is no such way."""
        ...

    async def close(self) -> None:
        """Let go of the connections; requests in flight fail."""
        ...
