"""From what libcurl says of a request that got no whole answer to one `SourceError`. Pure."""

from __future__ import annotations

import errno
from typing import Final

import pycurl

from ringfeedd.storage.base import SourceError
from ringfeedd.storage.transport.base import UNTRUSTED
from ringfeedd.storage.transport.curl_loop import Ended
from ringfeedd.storage.transport.http_errors import LARGE_HEADERS

SILENT: Final = Ended(pycurl.E_OPERATION_TIMEDOUT)
"""Our own verdict: libcurl counts silence in whole seconds."""

CLOSED: Final = Ended(pycurl.E_ABORTED_BY_CALLBACK)
"""The source was closed meanwhile."""

_TOO_LARGE: Final = 100
"""CURLE_TOO_LARGE, which pycurl has no name for: of what we ask, only headers can be."""
_TOO_LARGE_TOLD: Final = "Too large response"
"""What libcurl says of many headers, whose code is that of a broken connection."""

_UNRESOLVED: Final = frozenset({pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_COULDNT_RESOLVE_HOST})
_UNREACHABLE: Final = frozenset(
    {
        pycurl.E_COULDNT_RESOLVE_PROXY,
        pycurl.E_COULDNT_RESOLVE_HOST,
        pycurl.E_COULDNT_CONNECT,
        pycurl.E_SSL_CONNECT_ERROR,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CIPHER,
    }
)
_UNTRUSTED: Final = frozenset({pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE})
_BROKEN: Final = frozenset(
    {pycurl.E_PARTIAL_FILE, pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, CLOSED.code}
)


def error_from_curl(ended: Ended, *, connected: bool, answered: bool, what: str, system_error: int = 0) -> SourceError:
    """The error for a request that got no whole response; all of these are worth another attempt.

    Args:
        ended: what libcurl, or who cut it, said; not a transfer that ended well.
        connected: a connection had come about.
        answered: the head of an answer had come.
        what: begins the sentence.
        system_error: the ``errno`` of its attempt to connect; 0 where there was none.
    """
    if ended.code == _TOO_LARGE or ended.detail.startswith(_TOO_LARGE_TOLD):
        return SourceError(f"{what}: {LARGE_HEADERS}", cause="headers", retryable=True)
    cause, reason = _cause(ended.code, connected=connected, answered=answered)
    detail = ended.detail.strip().partition("\n")[0][:200]
    sentence = f"{what}: {reason}{f' ({detail})' if detail else ''}."
    refused = ended.code == pycurl.E_COULDNT_CONNECT and system_error == errno.ECONNREFUSED
    unreachable = ended.code in _UNRESOLVED | _UNTRUSTED or refused
    return SourceError(sentence, cause=cause, retryable=True, unreachable=unreachable)


def _cause(code: int, *, connected: bool, answered: bool) -> tuple[str, str]:
    if code in _UNTRUSTED:
        return "connect", UNTRUSTED
    if code in _UNREACHABLE:
        return "connect", "it cannot be reached"
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return ("timeout", "the server fell silent") if connected else ("connect", "no connection came about in time")
    if code in _BROKEN and answered:
        return "truncated", "the body broke off"
    if code in _BROKEN:
        return "reset", "the connection was lost"
    return "http", f"the answer cannot be understood, libcurl's error {code}"
