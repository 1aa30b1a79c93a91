"""What a download costs by each data plane, without TLS and with it: ``python -m ringfeedd.bench.planes``.

No decoding and no daemon.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from ringfeedd.bench.store import BUCKET, Store
from ringfeedd.errors import StartError
from ringfeedd.storage import PlaneName, Source, open_source
from ringfeedd.storage.base import read

OBJECT_BYTES: Final = 70_000
NAME: Final = "images/x.jpg"
CONCURRENCY: Final = 16
WARM_UP: Final = 20
GETS: Final = 150
"""For each of those that read at the same time, in one round."""

ROUNDS: Final = 7
PLANES: Final[tuple[PlaneName, ...]] = ("gcloud", "curl")
"""Each once: ``"auto"`` is one of them."""


async def _read(source: Source, times: int) -> None:
    for _ in range(times):
        assert len(await read(source, NAME, 1, OBJECT_BYTES)) == OBJECT_BYTES


async def cpu_us(plane: PlaneName, url: str) -> float:
    """CPU of this process for one GET, us; connections are open and warm. Raises: `StartError` without its package."""
    source = await open_source(f"gs://{BUCKET}", emulator=url, concurrency=CONCURRENCY, data_plane=plane)
    try:
        await asyncio.gather(*(_read(source, WARM_UP) for _ in range(CONCURRENCY)))
        began = time.process_time()
        await asyncio.gather(*(_read(source, GETS) for _ in range(CONCURRENCY)))
        return (time.process_time() - began) / (GETS * CONCURRENCY) * 1e6
    finally:
        await source.close()


def measure(url: str) -> dict[str, list[float]]:
    """Plane -> CPU us for one GET, a figure for each round; they take turns. One that is not installed is left out."""
    figures: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for plane in PLANES:
            try:
                figures.setdefault(plane, []).append(asyncio.run(cpu_us(plane, url)))
            except StartError as error:
                sys.stderr.write(f"{error}\n")
    return {plane: of_plane for plane, of_plane in figures.items() if of_plane}


def main() -> None:
    """Print one line for each plane."""
    with tempfile.TemporaryDirectory(prefix="ringfeed-bench-planes-") as folder:
        root = Path(folder)
        root.chmod(0o755)  # nginx may run as another user
        for path, data in (("listing/images-0.json", b"{}"), (NAME, os.urandom(OBJECT_BYTES))):
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_bytes(data)
        make_certificate(root)
        os.environ["SSL_CERT_FILE"] = str(root / "cert")
        for how, tls in (("HTTP", None), ("HTTPS", root)):
            with Store(root, tls=tls) as store:
                figures = measure(store.url)
            for plane, of_plane in figures.items():
                median, least, most = statistics.median(of_plane), min(of_plane), max(of_plane)
                spread = f"({least:.0f} to {most:.0f})"
                sys.stdout.write(f"{plane:8}{how:6}{median:7.0f} us of CPU for a GET of 70 kB {spread}\n")


def make_certificate(folder: Path) -> None:
    """Write ``cert`` and ``key`` of the host localhost, signed by themselves. Raises: StartError without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise StartError("the benchmark's store needs a certificate: install openssl")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
