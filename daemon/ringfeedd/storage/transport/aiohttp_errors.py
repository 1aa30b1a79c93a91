"""From what aiohttp's transport can do wrong to one `SourceError`."""

from __future__ import annotations

import socket
from typing import Final

import aiohttp

from ringfeedd.storage.base import SourceError
from ringfeedd.storage.transport.http_errors import (
    BROKEN_OFF,
    LARGE_HEADERS,
    LOST,
    NOT_IN_TIME,
    RETRYABLE,
    UNREACHABLE,
    UNTRUSTED,
    error_without_answer,
)

_LARGE_HEADERS_TOLD: Final = ("Got more than", "Too many headers")
"""What aiohttp, which has no class of errors for that, says of large headers."""

_FAILURES: Final[tuple[tuple[tuple[type[BaseException], ...], tuple[str, str]], ...]] = (
    ((aiohttp.ClientPayloadError,), BROKEN_OFF),
    ((aiohttp.ConnectionTimeoutError,), NOT_IN_TIME),
    ((TimeoutError,), ("timeout", "the server fell silent")),
    ((aiohttp.ClientConnectorCertificateError,), UNTRUSTED),
    ((aiohttp.ClientConnectorError,), UNREACHABLE),
    ((aiohttp.ClientConnectionError, ConnectionError), LOST),
)
"""What is raised -> the cause and the reason; the first that fits."""


def error_from_transport(error: Exception, what: str) -> SourceError:
    """The error for a request that got no whole response."""
    return error_without_answer(what, _cause(error), str(error), unreachable=is_unreachable(error))


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
        return _cause(error)[0]
    return None


def _cause(error: Exception) -> tuple[str, str]:
    if isinstance(error, aiohttp.ClientResponseError) and error.message.startswith(_LARGE_HEADERS_TOLD):
        return LARGE_HEADERS
    for kinds, cause_and_reason in _FAILURES:
        if isinstance(error, kinds):
            return cause_and_reason
    return "http", f"the answer cannot be understood, {type(error).__name__}"
