"""From what a server answers instead of a body to one `SourceError`: a sentence, a word to count, a verdict."""

from __future__ import annotations

import json
import math
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ringfeedd.storage.base import SourceError
from ringfeedd.storage.refusals import advice_for

if TYPE_CHECKING:
    from collections.abc import Mapping

RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
"""What Google's own client libraries try again, and 425."""

MAX_HEADER_BYTES = 64 << 10
"""The size of one header of an answer, with aiohttp; libcurl allows 300 kB of all headers together."""

LARGE_HEADERS = "headers", "the store's answer has headers larger than a store sends; is a proxy between?"
"""An answer came, so the store is not down."""

MAX_RETRY_AFTER_S = 60.0
"""What a server asks for is a wish. A store that is back sooner than it said must not be left alone for an hour."""

_WORDS = {401: "unauthorized", 403: "forbidden", 404: "missing", 410: "missing", 412: "changed"}
_REASONS = {
    "unauthorized": "the credentials were refused (401).",
    "forbidden": "access is forbidden (403).",
    "missing": "it is not there, or no longer in the generation that was listed (404).",
    "changed": "it was changed since it was listed (412).",
}


BROKEN_OFF = "truncated", "the body broke off"
LOST = "reset", "the connection was lost"
NOT_IN_TIME = "connect", "no connection came about in time"
UNREACHABLE = "connect", "it cannot be reached"
UNTRUSTED = (
    "connect",
    "its certificate is not trusted; set SSL_CERT_FILE to the file of the authorities that sign it",
)
"""Causes and reasons of requests that get no whole answer."""


def error_without_answer(
    what: str, cause_and_reason: tuple[str, str], detail: str, *, unreachable: bool = False
) -> SourceError:
    """The error for a request that got no whole response; all of these are worth another attempt.

    Args:
        what: begins the sentence.
        detail: what the library says about it.
        unreachable: see `SourceError`.
    """
    cause, reason = cause_and_reason
    said = detail.strip().partition("\n")[0][:200]
    sentence = f"{what}: {reason}{f' ({said})' if said else ''}."
    return SourceError(sentence, cause=cause, retryable=True, unreachable=unreachable)


def error_from_status(status: int, headers: Mapping[str, str], body: str, what: str) -> SourceError:
    """The error for a response other than 200; `what` begins its sentence, e.g. ``gs://b/x cannot be read``."""
    said = _said(body) + advice_for(status, body)
    if 200 <= status < 300:
        return SourceError(f"{what}: the server answered {status} instead of 200.", cause="status", retryable=True)
    if 300 <= status < 400:
        sentence = f"{what}: the server answered with a redirect ({status}), which is not followed; is a proxy between?"
        return SourceError(sentence, cause="redirect", retryable=True)
    if status == 403 and "ateLimitExceeded" in body:  # the API's older way to say 429
        status = 429
    if word := _WORDS.get(status):
        return SourceError(f"{what}: {_REASONS[word]}{said}", cause=word)
    sentence = f"{what}: the server answered {status}.{said}"
    wait = retry_after_s(headers)
    return SourceError(sentence, cause=f"http_{status}", retryable=status in RETRYABLE, retry_after_s=wait)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a Retry-After header asks for, as a number or as a date, at most `MAX_RETRY_AFTER_S`.

    None if there is no such header, or nothing in it that can be waited for: ``nan``, ``-3``, a date in the past.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(seconds, MAX_RETRY_AFTER_S) if math.isfinite(seconds) and seconds >= 0.0 else None


def _said(body: str) -> str:
    """What the API's JSON says in its message, as a further sentence; nothing for HTML and the like."""
    start = body.find("{")
    try:
        message = json.loads(body[start:])["error"]["message"] if start >= 0 else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f' It says: "{str(message).strip()[:300]}"' if message else ""
