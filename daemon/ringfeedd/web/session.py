"""A browser's session: a cookie that only one who knew the token can have, and from which the token does not follow."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

LASTS_S: Final = 12 * 3600
"""How long a browser stays logged in."""

MOST_ENDED: Final = 1024
"""Sessions that are known to have ended before their time; of more, the latest."""


class Sessions:
    """Makes and checks the values of cookies.

    A value is ``EXPIRY.NUMBER.MAC``, the MAC by a key that is derived from the token: a new token ends every session,
    and a restart of the daemon ends none.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        """Begin; sessions of an earlier daemon with the same token are good."""
        self._clock = wall_clock
        self._ended: OrderedDict[str, None] = OrderedDict()

    @staticmethod
    def cookie(token: str) -> str:
        """The cookie's name: browsers mix the ports of a machine, and several daemons come through its tunnels."""
        return f"ringfeed-{_mac(token, 'name')[:8]}"

    def begin(self, token: str) -> str:
        """The value of a new session."""
        session = f"{int(self._clock()) + LASTS_S}.{secrets.token_hex(16)}"
        return f"{session}.{_mac(token, session)}"

    def good(self, token: str, value: str) -> bool:
        """Whether a value is of a session that has not ended."""
        session, _, mac = value.rpartition(".")
        if not hmac.compare_digest(mac.encode(errors="replace"), _mac(token, session).encode()):
            return False
        return int(session.partition(".")[0]) > self._clock() and session not in self._ended

    def end(self, token: str, value: str) -> None:
        """Log out: the value is good no more."""
        if self.good(token, value):
            self._ended[value.rpartition(".")[0]] = None
            while len(self._ended) > MOST_ENDED:
                self._ended.popitem(last=False)


def _mac(token: str, text: str) -> str:
    key = hmac.digest(token.encode(), b"ringfeed session", hashlib.sha256)
    return hmac.digest(key, text.encode(errors="replace"), hashlib.sha256).hex()
