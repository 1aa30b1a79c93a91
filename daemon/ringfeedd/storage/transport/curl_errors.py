"""From what libcurl says of a request that got no whole answer to one `SourceError`. Pure."""

from __future__ import annotations

import errno
from typing import Final

import pycurl

from ringfeedd.storage.base import SourceError
from ringfeedd.storage.transport.curl_loop import Ended
from ringfeedd.storage.transport.http_errors import (
    BROKEN_OFF,
    LARGE_HEADERS,
    LOST,
    NOT_IN_TIME,
    UNREACHABLE,
    UNTRUSTED,
    error_without_answer,
)

CLOSED: Final = Ended(pycurl.E_ABORTED_BY_CALLBACK)
"""The source was closed meanwhile."""

_TOO_LARGE_TOLD: Final = "Too large response"
"""What libcurl says of many headers, whose code is that of a broken connection."""

_UNRESOLVED: Final = (pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_COULDNT_RESOLVE_HOST)
_DISTRUSTED: Final = (pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CACERT_BADFILE)
_TLS: Final = (pycurl.E_SSL_CONNECT_ERROR, pycurl.E_SSL_CERTPROBLEM, pycurl.E_SSL_CIPHER)
_BROKEN: Final = (pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_PARTIAL_FILE, CLOSED.code)

_FAILURES: Final = {
    100: LARGE_HEADERS,  # CURLE_TOO_LARGE, which pycurl has no name for: of what we ask, only headers can be
    pycurl.E_OPERATION_TIMEDOUT: NOT_IN_TIME,
    **dict.fromkeys(_DISTRUSTED, UNTRUSTED),
    **dict.fromkeys((*_UNRESOLVED, pycurl.E_COULDNT_CONNECT, *_TLS), UNREACHABLE),
    **dict.fromkeys(_BROKEN, LOST),
}


def error_from_curl(ended: Ended, *, answered: bool, what: str, system_error: int = 0) -> SourceError:
    """The error for a request that got no whole response.

    Args:
        ended: what libcurl, or who cut it, said; not a transfer that ended well.
        answered: the head of an answer had come.
        what: begins the sentence.
        system_error: the ``errno`` of its attempt to connect; 0 where there was none.
    """
    code, unknown = ended.code, ("http", f"the answer cannot be understood, libcurl's error {ended.code}")
    failure = _FAILURES.get(code, unknown)
    if ended.detail.startswith(_TOO_LARGE_TOLD):
        failure = LARGE_HEADERS
    elif failure is LOST and answered:
        failure = BROKEN_OFF
    refused = code == pycurl.E_COULDNT_CONNECT and system_error == errno.ECONNREFUSED
    unreachable = refused or code in _UNRESOLVED or code in _DISTRUSTED
    return error_without_answer(what, failure, ended.detail, unreachable=unreachable)
