"""What a download costs by each transport, without TLS and with it: ``python -m ringfeedd.bench.transports``.

No decoding and no daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from ringfeedd.bench.authority import own_authority
from ringfeedd.bench.store import BUCKET, Store
from ringfeedd.errors import StartError
from ringfeedd.storage import SourceError, TransportName
from ringfeedd.storage.transport.base import Transport
from ringfeedd.storage.transport.choice import open_transport

OBJECT_BYTES: Final = 70_000
NAME: Final = "images/x.jpg"
CONCURRENCY: Final = 16
WARM_UP: Final = 20
GETS: Final = 150
"""For each of those that read at the same time, in one round."""

ROUNDS: Final = 7
HTTP2: Final = "curl, HTTP/2"
WAYS: Final[dict[str, TransportName]] = {"aiohttp": "gcloud", "curl": "curl", HTTP2: "curl"}
"""What objects are read with; without TLS there is no HTTP/2."""


async def _read(transport: Transport, url: str, times: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(times):
        came: asyncio.Future[bytes | SourceError] = loop.create_future()
        transport.begin(url, None, OBJECT_BYTES, NAME, came.set_result)
        body = await came
        assert isinstance(body, bytes)
        assert len(body) == OBJECT_BYTES


def _open(way: str, url: str) -> Transport:
    """Raises: `StartError` without its package."""
    if way != HTTP2:
        return open_transport(WAYS[way], url, concurrency=CONCURRENCY)
    from ringfeedd.storage.transport.curl import CurlTransport  # noqa: PLC0415  # an extra

    return CurlTransport(url, concurrency=CONCURRENCY, http2=True)


async def cpu_us(way: str, url: str) -> float:
    """CPU of this process for one GET, us; connections are open and warm. Raises: `StartError` without its package."""
    transport = _open(way, url)
    address = f"{url}/{BUCKET}/{NAME}"
    try:
        await asyncio.gather(*(_read(transport, address, WARM_UP) for _ in range(CONCURRENCY)))
        began = time.process_time()
        await asyncio.gather(*(_read(transport, address, GETS) for _ in range(CONCURRENCY)))
        return (time.process_time() - began) / (GETS * CONCURRENCY) * 1e6
    finally:
        await transport.close()


def measure(urls: Mapping[str, str], ways: Sequence[str], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """CPU us for one GET, a figure for each round; they take turns. A way that is not installed is left out.

    Args:
        urls: of the stores, by what they are called.
        ways: of `WAYS`.
    """
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way in ways:
            for how, url in urls.items():
                with contextlib.suppress(StartError, ImportError):
                    figures.setdefault(f"{way}, {how}", []).append(asyncio.run(cpu_us(way, url)))
    return {name: figures_of_one for name, figures_of_one in figures.items() if figures_of_one}


def one_object(root: Path) -> None:
    """Make the bucket: one object, and what a `Store` is asked for at its start."""
    root.chmod(0o755)  # nginx may run as another user
    for path, data in (("listing/images-0.json", b"{}"), (NAME, os.urandom(OBJECT_BYTES))):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(data)


def main() -> None:
    """Print one line for each way."""
    with tempfile.TemporaryDirectory(prefix="ringfeed-bench-transports-") as folder:
        root = Path(folder)
        one_object(root)
        with own_authority(root), Store(root) as plain, Store(root, tls=root, http2=True) as secure:
            figures = measure({"HTTP": plain.url, "HTTPS": secure.url}, list(WAYS))
        for name, of_one in figures.items():
            median, least, most = statistics.median(of_one), min(of_one), max(of_one)
            spread = f"({least:.0f} to {most:.0f})"
            sys.stdout.write(f"{name:24}{median:7.0f} us of CPU for a GET of 70 kB {spread}\n")


if __name__ == "__main__":
    main()
