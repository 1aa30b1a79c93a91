"""A bucket's listing, page by page, by gcloud-aio-storage, which knows the API's addresses.

Its requests go through a `Transport`: with a session of its own it reads whatever a server sends into memory, and
follows redirects.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import msgspec

from ringfeedd.storage.base import SourceError
from ringfeedd.storage.pages import Page
from ringfeedd.storage.payload import fits, unpacked
from ringfeedd.storage.transport.base import get

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gcloud.aio.storage import Storage

    from ringfeedd.storage.transport.base import Transport

MAX_PAGE_BYTES: Final = 16 << 20
"""The size of one page, packed as well as unpacked: 1000 names of 1024 bytes, every byte escaped, take some 6 MiB."""

PAGE_TIMEOUT_S: Final = 300.0
"""For one page, which has no other deadline."""


class GcsListing:
    """The pages of one bucket's listing."""

    def __init__(self, transport: Transport, *, api_root: str, bucket: str, root: str, silent_s: float) -> None:
        """Prepare.

        Args:
            transport: sends the requests.
            api_root: scheme and host without a trailing slash.
            bucket: the bucket's name.
            root: what the operator calls it; for messages.
            silent_s: without data after which a request is cut, seconds.
        """
        self._api_root, self._bucket, self._root = api_root, bucket, root
        self._what = f"{root} cannot be listed: {api_root}"
        self._session = _TransportSession(transport, self._what, silent_s)
        self._storage: Storage | None = None

    async def page(self, params: dict[str, str], authorization: str | None) -> Page:
        """Return one page, as the API gives it. Raises: SourceError."""
        headers = {} if authorization is None else {"Authorization": authorization}
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                body: Any = await self._open_storage().list_objects(self._bucket, params=params, headers=headers)
        except TimeoutError as error:
            sentence = f"{self._what}: a page has not come within {PAGE_TIMEOUT_S:.0f} s."
            raise SourceError(sentence, cause="timeout", retryable=True) from error
        except SourceError as error:
            raise self._refused(error) from error
        return self._parsed(body, self._what)

    def _open_storage(self) -> Storage:
        if self._storage is None:
            from gcloud.aio.storage import Storage  # noqa: PLC0415  # workers, which never list, do without it

            # "dev": send no credentials of your own, so the token is never asked. Ours are added, see `TokenProvider`.
            session: Any = self._session
            self._storage = Storage(session=session, token=session, api_root=self._api_root, api_is_dev=True)
        return self._storage

    def _parsed(self, body: bytes, what: str) -> Page:
        if not fits(body, MAX_PAGE_BYTES):
            sentence = f"{what} gives a page of more than {MAX_PAGE_BYTES >> 20} MiB; is it a GCS server?"
            raise SourceError(sentence, cause="too_large")
        try:
            content = unpacked(body, MAX_PAGE_BYTES)
            return msgspec.json.decode(content, type=Page, strict=False)  # the API writes numbers as strings
        except msgspec.ValidationError as error:
            sentence = f"{what} answers with JSON that is not a listing ({error}); is it a GCS server?"
            raise SourceError(sentence, cause="not_json", retryable=True) from error
        except (ValueError, RecursionError) as error:  # JSON may also hold halves of surrogate pairs
            sentence = f"{what} answers with something else than JSON; is it a GCS server or a proxy?"
            raise SourceError(sentence, cause="not_json", retryable=True) from error

    def _refused(self, error: SourceError) -> SourceError:
        """The same error, with what to do about it where that is known."""
        if error.cause == "missing":
            where = f"There is no bucket {self._bucket} at {self._api_root}"
            return SourceError(f"{where}: check the name.", cause="missing")
        return error


@dataclass(frozen=True, slots=True)
class _TransportSession:
    """What gcloud-aio-storage uses of an aiohttp session, with the requests sent through a transport."""

    transport: Transport
    what: str
    silent_s: float

    async def get(self, url: str, *, headers: Mapping[str, str], params: Mapping[str, str], **_: object) -> _Answer:
        address = f"{url}?{urlencode(params)}"
        header = headers.get("Authorization")
        return _Answer(await get(self.transport, address, header, MAX_PAGE_BYTES, self.what, self.silent_s))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What it uses of an aiohttp response. A transport raises an error for every status but 200."""

    body: bytes
    status: int = 200

    async def json(self, **_: object) -> bytes:
        """Return the body as it came; `GcsListing` parses it within bounds."""
        return self.body
