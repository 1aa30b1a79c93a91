"""A bucket's listing, page by page, with gcloud-aio-storage, which knows the API's addresses."""

from __future__ import annotations

import aiohttp
import msgspec
from gcloud.aio.auth import Token
from gcloud.aio.storage import Storage

from .aiohttp_errors import error_from_transport
from .aiohttp_plane import client_timeout, open_session
from .base import SourceError
from .http_errors import error_from_status
from .pages import Page

LISTING_CONNECTIONS = 4

PAGE_TIMEOUT_S = 300.0
"""For one page, which has no other deadline."""


class GcsListing:
    """The pages of one bucket.

    It has a session of its own: pages need not queue behind reads, and are the only ones to be traced.
    """

    def __init__(self, bucket: str, root: str, api_root: str, *, read_timeout_s: float) -> None:
        """Open the session, inside the event loop that will use it; see `GcsSource` for the arguments."""
        self._bucket, self._root, self._api_root = bucket, root, api_root
        self._timeout = client_timeout(read_timeout_s, total_s=PAGE_TIMEOUT_S)
        self._session = open_session(api_root, LISTING_CONNECTIONS, self._timeout, _refusing_redirects())
        # "dev" stands for: send no credentials of your own. We add them (see `Bearer`), and the library's other
        # meaning of it, no TLS checks, has no effect on a session that is ours.
        self._storage = Storage(session=self._session, token=_NoToken(), api_root=api_root, api_is_dev=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def page(self, params: dict[str, str], authorization: str | None) -> Page:
        """One page, as the API gives it. Raises: SourceError."""
        what = f"{self._root} cannot be listed"
        try:
            content: object = await self._storage.list_objects(
                self._bucket,
                params=params,
                headers={} if authorization is None else {"Authorization": authorization},
                timeout=self._timeout,  # type: ignore[arg-type]  # annotated as seconds, and handed on to aiohttp as it is
            )
        except aiohttp.ClientResponseError as error:
            raise self._listing_refused(error, what) from error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            raise error_from_transport(error, f"{what}: {self._api_root}") from error
        except (ValueError, RecursionError) as error:
            sentence = f"{what}: {self._api_root} answers with something else than JSON; is it a GCS server or a proxy?"
            raise SourceError(sentence, cause="not_json", retryable=True) from error
        try:
            return msgspec.convert(content, Page, strict=False)
        except (msgspec.ValidationError, UnicodeError) as error:  # JSON may hold halves of surrogate pairs
            sentence = f"{what}: {self._api_root} answers with JSON that is no listing ({error}); is it a GCS server?"
            raise SourceError(sentence, cause="not_json", retryable=True) from error

    def _listing_refused(self, error: aiohttp.ClientResponseError, what: str) -> SourceError:
        if error.status == 404:
            return SourceError(
                f"There is no bucket {self._bucket} at {self._api_root}: check the name.", cause="missing"
            )
        return error_from_status(error.status, error.headers or {}, error.message, what)


class _NoToken(Token):
    """Keeps the library from searching this machine for credentials: it fails where an emulator needs none."""

    def __init__(self) -> None:
        pass


def _refusing_redirects() -> aiohttp.TraceConfig:
    """The library follows redirects, and offers no way to tell it not to.

    A portal's answer may be JSON, and would then pass for an empty bucket.
    """

    async def refuse(_session: object, _context: object, redirected: aiohttp.TraceRequestRedirectParams) -> None:
        answer = redirected.response
        raise aiohttp.ClientResponseError(answer.request_info, (), status=answer.status)

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    return trace
