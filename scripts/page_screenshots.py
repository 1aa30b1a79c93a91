"""Takes the pictures of the status page that the documents show; started by `scripts/screenshots`."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from browser import look_like, open_browser
from house import Output
from PIL import Image

from ringfeedd.demo.bucket import fill_folder

IMAGES = Path(__file__).parents[1] / "docs/images"
MOST_BYTES = 200_000
RING = "scenes"
READER = """
import sys, time, ringfeed
ring, group, rank, world_size, step_s = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])
with ringfeed.attach(ring, batch_size=16, group=group, rank=int(rank), world_size=int(world_size)) as reader:
    while True:
        for _ in reader:
            time.sleep(step_s)
"""
READERS = (("segformer-b2", 0, 2, 0.4), ("segformer-b2", 1, 2, 0.4), ("sweep-lr-3e-4", 0, 1, 0.2))
"""Group, rank, world size, and seconds that a training step takes."""


@contextlib.contextmanager
def process(*command: object, wait_for: str = "") -> Iterator[Output | None]:
    """A process, until the end of the block."""
    started = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output = Output(started)
        if wait_for:
            output.wait_for(wait_for)
        yield output
    finally:
        started.terminate()
        started.wait(20)


@contextlib.contextmanager
def page(folder: Path, ring: str) -> Iterator[str]:
    """The page of a daemon that reads from a store with faults; yields its address."""
    bucket = folder / "street-scenes"
    fill_folder(bucket, pairs=240)
    for broken in sorted((bucket / "images").iterdir())[5:90:40]:
        broken.write_bytes(broken.read_bytes()[:4000])
    python = (sys.executable, "-m")
    faults = ("--latency-ms", 20, "--fault", "reset:0.01")
    with process(*python, "ringfeedd.fakegcs", folder, "--port", 0, *faults, wait_for="") as store:
        assert store is not None
        address = store.wait_for("").split()[-1].rstrip("/")
        serve = ("ringfeedd", "serve", "gs://street-scenes", "--emulator", address, "--ring", ring, "--slots", 256)
        settings = ("--size", "224x224", "--label-mode", "index", "--http", "127.0.0.1:0", "--catalog-cache", "off")
        with process(*python, *serve, *settings, "--max-failed", 0.1, "--workers", 2) as daemon:
            assert daemon is not None
            said = daemon.wait_for("status page: ")
            daemon.wait_for("ready")
            yield said.split()[-1]


def take(driver: Any, address: str, file: Path, *, width: int, scheme: str, height: int = 0) -> None:
    """One picture, of the page's upper part where a height is given."""
    look_like(driver, width=width, scheme=scheme)
    driver.get(address)
    time.sleep(6)  # until its rates are of now, and its pictures there
    whole = driver.execute_script("return document.documentElement.scrollHeight")
    look_like(driver, width=width, height=min(whole, height or whole), scheme=scheme)
    time.sleep(1.5)
    driver.save_screenshot(str(file))
    picture = Image.open(file).convert("RGB")
    picture.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file}: {picture.width}x{picture.height}, {size:,} bytes")
    assert size <= MOST_BYTES, f"{file} is larger than {MOST_BYTES} bytes"


def main() -> None:
    """Parse, and take them."""
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__)
    parser.add_argument("--out", type=Path, default=IMAGES, metavar="DIR", help="docs/images by default")
    parser.add_argument("--seconds", type=float, default=100, help="of history before the pictures are taken")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        page(Path(folder), RING) as address,
        contextlib.ExitStack() as readers,
    ):
        for reader in READERS:
            readers.enter_context(process(sys.executable, "-c", READER, f"{RING}-train", *reader))
        time.sleep(options.seconds)
        with open_browser() as driver:
            take(driver, address, options.out / "page-desktop.png", width=1280, scheme="light", height=1290)
            take(driver, address, options.out / "page-phone.png", width=400, scheme="dark", height=1240)


if __name__ == "__main__":
    main()
