"""The way out: which proxy the environment names for the store, looked up once for all requests."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit


def proxy_for(api_root: str) -> str | None:
    """The proxy's URL for requests to `api_root` (scheme and host); None: directly."""
    address = urlsplit(api_root)
    if urllib.request.proxy_bypass(address.hostname or ""):
        return None
    return urllib.request.getproxies().get(address.scheme)
