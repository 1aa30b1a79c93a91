"""A bucket's listing, page by page, by the JSON API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import msgspec

from .base import SourceError
from .pages import Page
from .payload import unpacked
from .plane import get

if TYPE_CHECKING:
    from .plane import Plane

MAX_PAGE_BYTES: Final = 16 << 20
"""Of one page, packed as well as unpacked: 1000 names of 1024 bytes, every byte escaped, take some 6 MiB."""

PAGE_TIMEOUT_S: Final = 300.0
"""For one page, which has no other deadline."""


class GcsListing:
    """The pages of one bucket's listing."""

    def __init__(self, plane: Plane, *, api_root: str, bucket: str, root: str) -> None:
        """Prepare.

        Args:
            plane: sends the requests.
            api_root: scheme and host without a trailing slash.
            bucket: the bucket's name.
            root: what the operator calls it; for messages.
        """
        self._plane, self._api_root, self._bucket, self._root = plane, api_root, bucket, root
        self._url = f"{api_root}/storage/v1/b/{bucket}/o"

    async def page(self, params: dict[str, str], authorization: str | None) -> Page:
        """Return one page, as the API gives it. Raises: SourceError."""
        what = f"{self._root} cannot be listed: {self._api_root}"
        url = f"{self._url}?{urlencode(params)}"
        try:
            async with asyncio.timeout(PAGE_TIMEOUT_S):
                body = await get(self._plane, url, authorization, MAX_PAGE_BYTES, what)
        except TimeoutError as error:
            sentence = f"{what}: a page has not come within {PAGE_TIMEOUT_S:.0f} s."
            raise SourceError(sentence, cause="timeout", retryable=True) from error
        except SourceError as error:
            raise self._refused(error) from error
        return self._parsed(body, what)

    def _parsed(self, body: bytes, what: str) -> Page:
        content = unpacked(body, MAX_PAGE_BYTES)
        if content is not None and len(content) > MAX_PAGE_BYTES:
            sentence = f"{what} gives a page of more than {MAX_PAGE_BYTES >> 20} MiB; is it a GCS server?"
            raise SourceError(sentence, cause="too_large")
        try:
            return msgspec.json.decode(content or b"", type=Page, strict=False)  # the API writes numbers as strings
        except msgspec.ValidationError as error:
            sentence = f"{what} answers with JSON that is no listing ({error}); is it a GCS server?"
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
