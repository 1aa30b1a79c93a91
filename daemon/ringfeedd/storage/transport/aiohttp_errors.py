"""From what aiohttp's transport can do wrong to one `SourceError`."""

from __future__ import annotations

import http
import socket
from typing import Final

import aiohttp

from ringfeedd.storage.base import SourceError
from ringfeedd.storage.transport.base import UNTRUSTED
from ringfeedd.storage.transport.http_errors import LARGE_HEADERS, RETRYABLE


def error_from_transport(error: Exception, what: str) -> SourceError:
    """The error for a request that got no whole response; all of these are worth another attempt."""
    if _has_large_headers(error):
        return SourceError(f"{what}: {LARGE_HEADERS}", cause="headers", retryable=True)
    cause, reason = _transport_cause(error)
    detail = str(error).strip().partition("\n")[0][:200]
    sentence = f"{what}: {reason}{f' ({detail})' if detail else ''}."
    return SourceError(sentence, cause=cause, retryable=True, unreachable=is_unreachable(error))


def is_unreachable(error: BaseException) -> bool:
    """Return whether a request failed because its host does not resolve, refuses the connection or is not trusted."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return True
    if isinstance(error, aiohttp.ClientConnectorError):
        return isinstance(error.os_error, socket.gaierror | ConnectionRefusedError)
    return isinstance(error, socket.gaierror | ConnectionRefusedError)


def outage_cause(error: Exception) -> str | None:
    """The word for a request of a library's that was not answered, or put off; None for any other end of it."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"http_{error.status}" if error.status in RETRYABLE else None
    if isinstance(error, aiohttp.ClientConnectionError | TimeoutError | ConnectionError):
        return _transport_cause(error)[0]
    return None


def _has_large_headers(error: Exception) -> bool:
    """Return whether aiohttp has refused an answer for its headers; it has no class of errors for that."""
    if not isinstance(error, aiohttp.ClientResponseError) or error.status != http.HTTPStatus.BAD_REQUEST:
        return False
    return error.message.startswith(("Got more than", "Too many headers"))


_CAUSES: Final[tuple[tuple[tuple[type[BaseException], ...], str, str], ...]] = (
    ((aiohttp.ClientPayloadError,), "truncated", "the body broke off"),
    ((aiohttp.ConnectionTimeoutError,), "connect", "no connection came about in time"),
    ((TimeoutError,), "timeout", "the server fell silent"),
    ((aiohttp.ClientConnectorCertificateError,), "connect", UNTRUSTED),
    ((aiohttp.ClientConnectorError,), "connect", "it cannot be reached"),
    ((aiohttp.ClientConnectionError, ConnectionError), "reset", "the connection was lost"),
)
"""What is raised -> the cause and the reason; the first that fits."""


def _transport_cause(error: Exception) -> tuple[str, str]:
    for kinds, cause, reason in _CAUSES:
        if isinstance(error, kinds):
            return cause, reason
    return "http", f"the answer cannot be understood, {type(error).__name__}"
