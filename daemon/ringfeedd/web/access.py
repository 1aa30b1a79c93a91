"""Which requests the status page answers. Pure decisions on an address, a method, a Host and an Authorization."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ringfeedd.config.listen import Listen, address, is_loopback

METHODS: Final = ("GET", "HEAD")
FORM: Final = ("POST",)
"""The method of the two forms, with which a browser logs in and out."""

_HOST_HEADER: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that is refused: a status and a sentence without anything of the request in it."""

    status: HTTPStatus
    sentence: str


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides on each request.

    Attributes:
        token: what a request has to bring; None where every user of this machine may ask.
        machine: this machine's name.
    """

    listen: Listen
    token: str | None
    machine: str

    @property
    def shows_data(self) -> bool:
        """Whether pixels may be shown: to this machine's users, or to those who bring the token."""
        return self.listen.loopback or self.token is not None

    def refuse(
        self,
        method: str,
        host: str | None,
        authorization: str | None,
        *,
        public: bool,
        session: bool = False,
        origin: str | None = None,
        form: bool = False,
    ) -> Refusal | None:
        """Why a request gets no answer; None where it does.

        Args:
            host, authorization, origin: the headers; None where there is none.
            public: the answer tells nothing of the data, so it needs no token.
            session: the request brings the cookie of a browser that has logged in.
            form: this is where a form is sent to.
        """
        if method not in METHODS and not (form and self.token is not None and method in FORM):
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "This page can only be read: GET or HEAD.")
        if host is None or not self._is_ours(host):
            return Refusal(
                HTTPStatus.FORBIDDEN,
                "The Host of this request is not this machine's: ask by its address, or by localhost.",
            )
        if method in FORM and origin is not None and origin.rpartition("://")[2] != host:
            return Refusal(HTTPStatus.FORBIDDEN, "This form was sent by a page of another site.")
        if (
            self.token is not None
            and not (public or session or (form and method in FORM))
            and not _same(authorization, f"Bearer {self.token}")
        ):
            return Refusal(
                HTTPStatus.UNAUTHORIZED,
                "Send `Authorization: Bearer TOKEN`, the token in the daemon's http_token_file.",
            )
        return None

    def opens(self, token: str) -> bool:
        """Whether this is the token."""
        return self.token is not None and _same(token, self.token)

    def _is_ours(self, header: str) -> bool:
        """Whether a browser that was lured to a stranger's name, which now points here, cannot have sent this Host."""
        match = _HOST_HEADER.fullmatch(header)
        if match is None:
            return False
        host = (match["v6"] or match["host"]).lower().rstrip(".")
        if is_loopback(host) or host == self.listen.host.lower():
            return True
        if self.listen.loopback:
            return False
        return address(host) is not None or host.partition(".")[0] == self.machine.lower().partition(".")[0]


def _same(given: str | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(errors="replace"), wanted.encode())
