"""The access token of a GCS source: one refresh for all requests, and a token that was refused is not kept."""

from __future__ import annotations

import asyncio
import os
import time
from urllib.parse import urlsplit

import aiohttp
from gcloud.aio.auth import Token

from ringfeedd.errors import StartError, StoreDownError
from ringfeedd.storage.base import SourceError
from ringfeedd.storage.transport.aiohttp_errors import is_unreachable, outage_cause
from ringfeedd.storage.transport.proxy import proxy_for
from ringfeedd.system.files import read_regular

READ_ONLY = "https://www.googleapis.com/auth/devstorage.read_only"
"""All that we ask for; the library's own default is full control."""

METADATA_PROBE_S = 5.0
"""A metadata server answers in ms; a machine that has none must not keep the operator waiting."""

FIRST_TOKEN_S = 60.0
"""For the first token of all, the library's own retries included."""

NO_CREDENTIALS = (
    "No Google credentials were found: GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud's default credentials do not "
    "exist, and this machine has no metadata server. Run `gcloud auth application-default login`, or set "
    "GOOGLE_APPLICATION_CREDENTIALS to a service account's key file."
)

MOST_KEY_BYTES = 1 << 20

CHECK = "Check the credentials and the way to Google."


class TokenProvider:
    """Gives requests the value of the ``Authorization`` header.

    The library refreshes in the task of the first request, so that cancelling that one request would fail the others
    that wait with it. Here the refresh is a task of its own, and requests wait for it behind a shield.
    """

    def __init__(self, token: Token) -> None:
        self._token = token
        self._refreshing: asyncio.Task[None] | None = None

    async def header(self) -> str:
        """``Bearer ...``, fresh enough to be sent. Raises: `SourceError` if there is no token."""
        header = self.header_now()
        if header is None:
            await self._refresh()
            header = f"Bearer {self._token.access_token}"
        return header

    def header_now(self) -> str | None:
        """The same at once; None where a token has to be waited for."""
        token, now = self._token, time.time()
        if not token.access_token or now > token.access_token_refresh_after:
            return None
        if now > token.access_token_preempt_after and not self._is_refreshing():
            # in good time: no request waits for this one
            self._start()
        return f"Bearer {token.access_token}"

    async def header_after_refusal(self, refused: str) -> str:
        """Another header than `refused`, which the server answered with 401. Raises: `SourceError`."""
        if refused == f"Bearer {self._token.access_token}":  # else another request has fetched a new one meanwhile
            await self._refresh()
        return f"Bearer {self._token.access_token}"

    async def close(self) -> None:
        """End a refresh in flight, and the token's own session."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        await self._token.session.session.close()

    async def _refresh(self) -> None:
        try:
            await asyncio.shield(self._start())
        except Exception as error:  # the library raises whatever its transport, its parser and its keys raise
            sentence = f"Could not get an access token for Google Cloud Storage ({_in_short(error)})."
            cause, unreachable = outage_cause(error) or "unauthorized", is_unreachable(error)
            raise SourceError(sentence, cause=cause, retryable=True, unreachable=unreachable) from error

    async def _acquire(self) -> None:
        await self._token.acquire_access_token()

    def _is_refreshing(self) -> bool:
        return self._refreshing is not None and not self._refreshing.done()

    def _start(self) -> asyncio.Task[None]:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._acquire())
            # a refresh that failed in good time fails no request: the next request tries again
            self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._refreshing


async def open_token_provider() -> TokenProvider:
    """The bearer for the credentials of this machine's user, with a first token in hand.

    Raises:
        StoreDownError: the token server does not answer.
        StartError: no credentials, or none that work.
    """
    # A session of its own: waiting for a free connection among busy downloads would use up the refresh's 10 s.
    # trust_env: a token may have to come through a proxy; these requests are few, so its cost does not matter.
    session = aiohttp.ClientSession(trust_env=True)
    try:
        return await _first_token(session)
    except BaseException:
        await session.close()
        raise


async def _first_token(session: aiohttp.ClientSession) -> TokenProvider:
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named is not None:
        _check_key_file(named)
    try:
        token = Token(scopes=[READ_ONLY], session=session)
    except FileNotFoundError as error:
        if named is None:  # gcloud-aio-auth before 5.6 insists on a file in $CLOUDSDK_CONFIG
            raise StartError(NO_CREDENTIALS) from error
        sentence = f"GOOGLE_APPLICATION_CREDENTIALS names {named}, and there is no such file; correct or unset it."
        raise StartError(sentence) from error
    except Exception as error:  # a key, a type or a field that the library does not know
        raise StartError(f"The Google credentials {named or ''} cannot be used ({_in_short(error)}).") from error
    if not token.service_data:
        if named:  # the library falls back silently to another identity than the one that was asked for
            raise StartError(f"GOOGLE_APPLICATION_CREDENTIALS names {named}, which cannot be read as JSON.")
        await _probe_metadata_server(session, token.token_uri)
    else:
        await _insist_that_it_resolves(token.token_uri)
    bearer = TokenProvider(token)
    try:
        async with asyncio.timeout(FIRST_TOKEN_S):
            await bearer.header()
    except TimeoutError as error:
        await bearer.close()
        raise StoreDownError(f"No access token came within {FIRST_TOKEN_S:.0f} s. {CHECK}") from error
    except SourceError as error:
        await bearer.close()
        raise error.start_error(f"{error} {CHECK}") from error
    return bearer


def _check_key_file(named: str) -> None:
    """Raise for a file that the library would wait for, or read without a bound; what it says itself is left to it."""
    try:
        text, _ = read_regular(named, MOST_KEY_BYTES)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise StartError(f"GOOGLE_APPLICATION_CREDENTIALS names {named}, which cannot be read: {why}.") from error
    if len(text) > MOST_KEY_BYTES:
        raise StartError(
            f"GOOGLE_APPLICATION_CREDENTIALS names {named}, which is larger than a key can be, {MOST_KEY_BYTES} bytes."
        )


async def _insist_that_it_resolves(url: str) -> None:
    """Look for the host that gives tokens, unless a proxy does: the library would try it five times."""
    host: str | None = None
    try:
        address = urlsplit(url)
        host, port = address.hostname, address.port
        if host is None or proxy_for(f"{address.scheme}://{address.netloc}"):
            return
        await asyncio.get_running_loop().getaddrinfo(host, port)
    except OSError as error:
        raise StoreDownError(
            f"No access token for Google Cloud Storage: {host} cannot be found ({error.strerror}). {CHECK}",
            unreachable=True,
        ) from error
    except (ValueError, AttributeError, TypeError) as error:  # a key file may hold any value there
        raise StartError(f"The Google credentials cannot be used: {str(url)[:200]!r} is not a token_uri.") from error


async def _probe_metadata_server(session: aiohttp.ClientSession, url: str) -> None:
    """Without this, a laptop without credentials would see 5 retries with waits up to 60 s before any sentence."""
    timeout = aiohttp.ClientTimeout(total=METADATA_PROBE_S)
    headers = {"Metadata-Flavor": "Google"}
    try:
        async with session.get(url, headers=headers, timeout=timeout) as response:
            if response.status < 500 and response.status != 200:
                raise StartError(f"{NO_CREDENTIALS} (The metadata server answered {response.status}.)")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StartError(NO_CREDENTIALS) from error


def _in_short(error: BaseException) -> str:
    """One line of an error that may hold a whole HTML page."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
