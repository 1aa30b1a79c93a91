"""`get_async_dataloaders`: the loaders of the snippet that Ringfeed grew from, with a daemon behind them."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from ringfeed.dataset import RingDataset
from ringfeed.descriptor import Descriptor, read_descriptor, ring_names
from ringfeed.errors import DaemonNotRunningError, RingfeedError
from ringfeed.field_rows import Pixels
from ringfeed.loader import RingLoader
from ringfeed.status import ring_status

SPLITS: Final = ("train", "test")
EXIT_ALREADY_RUNNING: Final = 75
STOP_TIMEOUT_S: Final = 10.0
OTHERS_START_S: Final = 120.0
"""How long to wait for a daemon that another process of this job is starting."""


def get_async_dataloaders(
    gcs_data_root: str,
    batch_size: int,
    transform: Callable[[tuple[Any, Any]], Any] | None = None,
    test_ratio: float = 0.1,
    num_workers: int = 0,
    *,
    emulator: str | None = None,
    drop_last: bool = False,
    **serve: object,
) -> dict[str, RingLoader]:
    """Loaders over all pairs below a root, split consistently into train and test.

    Reads the rings of the daemon that serves the root on this machine. Where none does, one is started for as long as
    this process lives; where several jobs read one root, run `ringfeed serve` instead.

    Args:
        gcs_data_root: ``gs://bucket/prefix``, or a folder.
        batch_size: pairs in a batch.
        transform: called with one pair ``(image, label)`` of PIL images in the processes that read; the results are
            collated. None: both as uint8 tensors ``(3, H, W)``.
        test_ratio: fraction of the pairs in the test split, decided by a hash of the id.
        num_workers: processes that run the transform; 0 runs it in this one. Fetching and decoding need none.
        emulator: address of a GCS emulator.
        drop_last: drop an epoch's last pairs where they are no full batch.
        serve: settings for a daemon that is started here, by the names of its configuration, e.g. ``size="512x512"``,
            ``fit="resize"``. By default pairs keep their own sizes, and a store that does not answer is an error at
            once (``store_wait_s=0``), since nobody sees here what the daemon says while it waits.

    Returns:
        ``{"train": RingLoader, "test": RingLoader}``, DataLoaders that know where they stand; without a test loader
        where ``test_ratio`` is 0.

    Raises:
        RingfeedError: no daemon could be started, or one serves this root with another test_ratio.
    """
    rings = _find(gcs_data_root, test_ratio) or _start(
        gcs_data_root,
        {
            "test_ratio": test_ratio,
            "fit": "native",
            "store_wait_s": 0,
            **({"emulator": emulator} if emulator else {}),
            **serve,
        },
    )
    return {
        split: RingLoader(
            RingDataset(
                descriptor.ring,
                batch_size=batch_size,
                drop_last=drop_last,
                transform=_PairTransform(transform, descriptor.label_mode),
            ),
            num_workers=num_workers,
        )
        for split, descriptor in rings.items()
    }


@dataclass(frozen=True)
class _PairTransform:
    """Gives the user's transform PIL images, as the snippet did; pickles with it."""

    transform: Callable[[tuple[Any, Any]], Any] | None
    label_mode: str

    def __call__(self, pair: tuple[torch.Tensor, torch.Tensor]) -> Any:  # noqa: ANN401  # what the transform returns
        image, label = pair
        if self.transform is None:
            return image.clone(), label.clone()
        return self.transform((_to_pil(image), _to_pil(label)))


def _to_pil(tensor: torch.Tensor) -> Image.Image:
    """A PIL image of its own memory: RGB, L for class ids, I;16 for 16-bit labels."""
    pixels: Pixels = tensor.numpy()
    if pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    return Image.fromarray(np.array(pixels))


# Finding a daemon, or starting one.


def _find(root: str, test_ratio: float) -> dict[str, Descriptor] | None:
    """The rings of a living daemon that serves this root; None where there is none.

    Raises:
        RingfeedError: it splits otherwise.
    """
    daemons: defaultdict[int, dict[str, Descriptor]] = defaultdict(dict)
    for name in ring_names():
        with contextlib.suppress(RingfeedError, OSError):
            descriptor = read_descriptor(name)
            if descriptor.root.rstrip("/") == root.rstrip("/") and ring_status(name).state in ("starting", "serving"):
                daemons[descriptor.pid][descriptor.split] = descriptor
    for rings in daemons.values():
        if all(descriptor.test_ratio == test_ratio for descriptor in rings.values()):
            return {split: rings[split] for split in SPLITS if split in rings}
    for rings in daemons.values():
        ratio = next(iter(rings.values())).test_ratio
        raise RingfeedError(
            f"A daemon serves {root} on this machine with test_ratio = {ratio:g}, and {test_ratio:g} is asked for; "
            f"pass test_ratio={ratio:g}, or stop that daemon."
        )
    return None


def _start(root: str, settings: dict[str, object]) -> dict[str, Descriptor]:
    """Start a daemon that ends with this process, and wait until its first pairs are there."""
    settings = {name: value for name, value in settings.items() if value is not None}
    # The ranks of one job ask for the same: one of them starts the daemon, the others find its name taken.
    digest = hashlib.blake2b(repr((root, sorted(settings.items()))).encode(), digest_size=6).hexdigest()
    ring = f"auto-{digest}"
    command = [sys.executable, "-m", "ringfeedd", "serve", root, "--ring", ring, "--stop-on-eof"]
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        command += [flag] if value is True else [] if value is False else [flag, str(value)]
    expected = SPLITS if settings["test_ratio"] else ("train",)
    log = tempfile.TemporaryFile()  # noqa: SIM115  # it lasts as long as the daemon; a pipe would fill up unread
    daemon = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    _RUNNING.append(_Running(daemon, os.getpid()))
    deadline = None
    while True:
        said = os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")
        ready = re.search(r"^ready", said, re.MULTILINE) is not None
        if ready or deadline is not None:
            try:
                return {split: read_descriptor(f"{ring}-{split}") for split in expected}
            except DaemonNotRunningError as error:
                if ready:
                    raise RingfeedError(
                        f"test_ratio = {settings['test_ratio']:g} gives the test split none of the pairs under {root}; "
                        f"raise it, or pass 0 for no test loader."
                    ) from error
        if deadline is None and daemon.poll() is not None:
            if daemon.returncode != EXIT_ALREADY_RUNNING:
                raise RingfeedError(f"No daemon runs for {root}, and none could be started: {_complaint(said)}")
            deadline = time.monotonic() + OTHERS_START_S
        if deadline is not None and time.monotonic() > deadline:
            raise RingfeedError(f"Another process is starting a daemon for {root}, and it is not ready yet; try again.")
        time.sleep(0.05)


def _complaint(said: str) -> str:
    """The last sentence that a daemon said before it gave up."""
    lines = said.strip().splitlines()
    return lines[-1].removeprefix("ringfeed: ") if lines else "it said nothing"


@dataclass(frozen=True)
class _Running:
    daemon: subprocess.Popen[bytes]
    pid: int

    def stop(self) -> None:
        if self.pid != os.getpid():
            return  # a forked child
        self.daemon.terminate()  # the end of its input tells it too, but forked workers may hold that open
        try:
            self.daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.daemon.kill()


_RUNNING: Final[list[_Running]] = []


@atexit.register
def _stop_daemons() -> None:
    for running in _RUNNING:
        running.stop()
