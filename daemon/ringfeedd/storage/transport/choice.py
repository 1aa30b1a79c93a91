"""The choice of a transport by its name."""

from __future__ import annotations

import importlib.util

from ringfeedd.errors import StartError
from ringfeedd.storage.transport.base import Transport, TransportName


def open_transport(name: TransportName, api_root: str, *, concurrency: int) -> Transport:
    """The transport of that name, inside the event loop that will use it; see `GcsSource` for the arguments.

    Raises:
        StartError: its package is not installed.
    """
    if name == "gcloud":
        return _aiohttp_transport(api_root)
    try:
        from ringfeedd.storage.transport.curl import CurlTransport  # noqa: PLC0415  # an extra: without it all else works
    except ImportError as error:
        if name == "auto":
            return _aiohttp_transport(api_root)
        raise StartError(
            f"The transport is curl, which needs the package pycurl, and that cannot be imported ({error}); "
            "pip install 'ringfeed[fast]', or leave it at auto."
        ) from error
    return CurlTransport(api_root, concurrency=concurrency)


def transport_module(name: TransportName) -> str:
    """The module that `open_transport` imports for it."""
    there = name != "gcloud" and importlib.util.find_spec("pycurl") is not None
    return f"{__package__}.{'curl' if there else 'aiohttp'}"


def _aiohttp_transport(api_root: str) -> Transport:
    from ringfeedd.storage.transport.aiohttp import AiohttpTransport  # noqa: PLC0415  # a third of a second to import

    return AiohttpTransport(api_root)
