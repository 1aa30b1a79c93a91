"""Where the status page is served: ``HOST:PORT`` or ``off``. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

OFF: Final = "off"

_LISTEN: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the status page is served.

    Attributes:
        host: an address or a name of this machine.
        port: 0 for any that is free.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Listen | None:
        """Read ``HOST:PORT``, an IPv6 address in brackets; None for ``off``.

        Raises:
            ValueError: it is neither.
        """
        if text == OFF:
            return None
        match = _LISTEN.fullmatch(text)
        if match is None or int(match["port"]) > 65535 or (match["v6"] and address(match["v6"]) is None):
            raise ValueError(f'http {text!r} is not HOST:PORT, e.g. "127.0.0.1:9753" or "[::1]:9753", nor "off"')
        return cls(match["v6"] or match["host"], int(match["port"]))

    @property
    def loopback(self) -> bool:
        """Whether only processes of this machine can reach it."""
        return is_loopback(self.host)

    def url(self, port: int) -> str:
        """Return the page's address, with the port that the system gave."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}/"


def address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the IP address that a host is, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return True if only processes of this machine reach a host of this name or address."""
    found = address(host)
    return host.lower() == "localhost" if found is None else found.is_loopback
