"""A bucket of Google Cloud Storage, or of an emulator that speaks its JSON API."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from ringfeedd.errors import ConfigError, StartError
from ringfeedd.storage.base import PAGE_OBJECTS, ObjectInfo, OnEnd, Reading, SourceError, TaskReading
from ringfeedd.storage.listing import GcsListing
from ringfeedd.storage.pages import Paging
from ringfeedd.storage.retry import SYSTEM_CLOCK, Backoff, with_retries
from ringfeedd.storage.settings import StoreSettings
from ringfeedd.storage.skipped import Skipped
from ringfeedd.storage.transport.base import Transport, get
from ringfeedd.storage.transport.choice import open_transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ringfeedd.storage.token import TokenProvider

T = TypeVar("T")

GOOGLE_API = "https://www.googleapis.com"
LISTED_FIELDS = "items(name,size,generation,crc32c),nextPageToken"
LISTING_BACKOFF = Backoff(max_attempts=5, base_s=0.25, max_s=8.0)

_BUCKET = re.compile(r"[a-z0-9]([a-z0-9._-]{0,220}[a-z0-9])?")


class GcsSource:
    """Objects below ``gs://bucket/prefix``; see `Source`.

    Lists with gcloud-aio-storage, see `GcsListing`. Reads by requests of our own through the same `Transport`:
    `Storage.download` cannot name a generation, follows redirects, and unpacks gzip, after which size and crc32c no
    longer fit.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        settings: StoreSettings,
        *,
        api_root: str = GOOGLE_API,
        bearer: TokenProvider | None,
        backoff: Backoff = LISTING_BACKOFF,
    ) -> None:
        """Open the session; inside the event loop that will use it.

        Args:
            bucket: the bucket's name.
            prefix: ``""``, or a prefix that ends in ``/``; names are relative to it.
            settings: how it is asked; the emulator is ``api_root``.
            api_root: scheme and host without a trailing slash.
            bearer: who gives the token; None sends none (an emulator).
            backoff: how pages of the listing are retried.

        Raises:
            StartError: the transport's package is not installed.
        """
        self._bucket, self._prefix, self._api_root = bucket, prefix, api_root
        self._bearer, self._backoff = bearer, backoff
        self._root = f"gs://{bucket}/{prefix}".rstrip("/")
        self._objects_url = f"{api_root}/storage/v1/b/{bucket}/o"
        self._settings = settings
        self._transport = open_transport(settings.transport, api_root, concurrency=settings.concurrency)
        self._billed = {} if settings.user_project is None else {"userProject": settings.user_project}
        self._billed_query = f"&{urlencode(self._billed)}" if self._billed else ""
        self._listing = GcsListing(
            self._transport, api_root=api_root, bucket=bucket, root=self._root, silent_s=settings.read_timeout_s
        )
        self._answered = settings.answered

    def __repr__(self) -> str:
        return f"GcsSource({self.root!r}, {self._api_root})"

    @property
    def root(self) -> str:
        """``gs://bucket/prefix``."""
        return self._root

    async def list_pages(self, prefix: str, skipped: Skipped | None = None) -> AsyncIterator[list[ObjectInfo]]:
        """Every object whose name begins with `prefix`, in the order of the names' UTF-8; see `Source.list_pages`."""
        params = {
            "prefix": self._prefix + prefix,
            "fields": LISTED_FIELDS,
            "maxResults": str(PAGE_OBJECTS),
            **self._billed,
        }
        paging, rule = Paging(self.root, self._settings.max_objects), skipped or Skipped([prefix])
        while True:
            page = await with_retries(
                lambda: self._authorised(lambda header: self._listing.page(params, header)),
                self._backoff,
                hopeless=lambda error: error.unreachable and not self._answered,
                deadline=SYSTEM_CLOCK.monotonic() + self._settings.listing_wait_s,
            )
            self._answered = True
            if objects := [info for info in page.objects(self._prefix) if rule.takes(info.name)]:
                yield objects
            token = paging.next_token(page)
            if token is None:
                return
            params["pageToken"] = token

    def begin_read(self, name: str, generation: int, max_bytes: int, on_end: OnEnd) -> Reading:
        """Ask for the stored bytes, still gzipped where they are stored so; see `Source.begin_read`."""
        url, what = self._url(name, generation), f"{self._root}/{name} cannot be read"
        if self._bearer is None:
            return self._transport.begin(url, None, max_bytes, what, on_end)
        return _AuthorisedRead(self._transport, self._bearer, (url, max_bytes, what), on_end)

    def _url(self, name: str, generation: int) -> str:
        pinned = f"&generation={generation}" if generation else ""
        return f"{self._objects_url}/{quote(self._prefix + name, safe='')}?alt=media{pinned}{self._billed_query}"

    async def close(self) -> None:
        """Close the connections and the token's session."""
        await self._transport.close()
        if self._bearer is not None:
            await self._bearer.close()

    async def _authorised(self, request: Callable[[str | None], Awaitable[T]]) -> T:
        """`request`, with credentials; once more with a fresh token when the server refuses the one we hold."""
        if self._bearer is None:
            return await request(None)
        header = await self._bearer.header()
        try:
            return await request(header)
        except SourceError as error:
            if error.cause != "unauthorized":
                raise
        header = await self._bearer.header_after_refusal(header)
        return await request(header)


class _AuthorisedRead:
    """A read with credentials; once more with a fresh token if the server refuses the one that is held."""

    def __init__(
        self, transport: Transport, bearer: TokenProvider, request: tuple[str, int, str], on_end: OnEnd
    ) -> None:
        self._transport, self._bearer, self._request, self._on_end = transport, bearer, request, on_end
        self._header = bearer.header_now()
        self._reading: Reading
        if self._header is None:
            self._reading = TaskReading(self._read(bearer.header()), on_end)
        else:
            url, max_bytes, what = request
            self._reading = transport.begin(url, self._header, max_bytes, what, self._came)

    @property
    def received(self) -> int | None:
        """See `Reading.received`."""
        return self._reading.received

    def cancel(self) -> None:
        """See `Reading.cancel`."""
        self._reading.cancel()

    def _came(self, came: bytes | SourceError) -> None:
        if isinstance(came, SourceError) and came.cause == "unauthorized":
            assert self._header is not None
            self._reading = TaskReading(self._read(self._bearer.header_after_refusal(self._header)), self._on_end)
        else:
            self._on_end(came)

    async def _read(self, header: Awaitable[str]) -> bytes:
        url, max_bytes, what = self._request
        return await get(self._transport, url, await header, max_bytes, what)


async def open_gcs(root: str, settings: StoreSettings) -> GcsSource:
    """The source for ``gs://bucket/prefix``; credentials are fetched, nothing else is asked.

    Raises:
        ConfigError: no such bucket name.
        StartError: no credentials, no package for the transport, or ``STORAGE_EMULATOR_HOST`` set
            without an emulator in the settings.
    """
    bucket, _, prefix = root.removeprefix("gs://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        sentence = f"{bucket!r} in {root} is no bucket's name; write gs://BUCKET/PREFIX, the bucket in lower case."
        raise ConfigError(sentence)
    prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    api_root, bearer = GOOGLE_API, None
    if settings.emulator is not None:
        api_root = emulator_address(settings.emulator)
    elif host := os.environ.get("STORAGE_EMULATOR_HOST"):
        # The library would obey it, and send every request there without credentials or TLS checks.
        sentence = (
            f"STORAGE_EMULATOR_HOST is set to {host}, but no emulator was asked for; "
            f"pass --emulator {host} to read from it, or unset the variable to read from Google."
        )
        raise StartError(sentence)
    else:
        from ringfeedd.storage.token import open_token_provider  # noqa: PLC0415  # as for listings: not for an emulator

        bearer = await open_token_provider()
    try:
        return GcsSource(bucket, prefix, settings, api_root=api_root, bearer=bearer)
    except StartError:
        if bearer is not None:
            await bearer.close()
        raise


def emulator_address(emulator: str) -> str:
    """``host:port`` or an URL, as people write it, to scheme and host: a trailing slash would give 404."""
    address = emulator.strip()
    if "://" not in address:
        address = f"http://{address}"
    try:
        parts = urlsplit(address)
        usable = address.isascii() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise StartError(f"{emulator!r} is no emulator's address; write http://HOST:PORT.")
    return address.rstrip("/").removesuffix("/storage/v1").rstrip("/")
