"""`get_async_dataloaders`: the loaders of the snippet that Ringfeed grew from, with a daemon behind them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ringfeed.arguments import function_or_none, true_or_false, whole_number
from ringfeed.daemon import shared as shared_daemon
from ringfeed.daemon.started import Use
from ringfeed.reader.fields import Pixels
from ringfeed.torch.dataset import RingDataset
from ringfeed.torch.loader import RingLoader


def get_async_dataloaders(
    gcs_data_root: str | bytes | os.PathLike[str],
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

    Reads the rings of the daemon that serves the root on this machine, if it serves it with every setting that is given
    here and that decides ids, pixels or order; settings that are not given are the daemon's. Where no daemon serves the
    root, one is started. Jobs of one user that ask for the same settings share it, and jobs that ask for others get
    their own. It ends when the last process that asked for it, or reads it, has ended; and where this process asks for
    other settings once its loaders are gone.

    Args:
        gcs_data_root: ``gs://bucket/prefix``, or a folder; a relative one begins at the current folder.
        batch_size: pairs in a batch.
        transform: called with one pair ``(image, label)`` of PIL images in the processes that read; the results are
            collated. None: both as uint8 tensors ``(3, H, W)``.
        test_ratio: fraction of the pairs in the test split, decided by a hash of the id.
        num_workers: processes that run the transform; 0 runs it in this one. Fetching and decoding need none.
        emulator: address of a GCS emulator.
        drop_last: drop an epoch's last pairs where they do not fill a batch.
        serve: settings of the daemon, by the names of its configuration, e.g. ``size="512x512"``, ``fit="resize"``,
            ``labels="masks/{id}.png"``. A daemon that is started here lets pairs keep their own sizes
            (``fit="native"``), and a store that does not answer is an error at once (``store_wait_s=0``), unless they
            are given. ``ring="NAME"`` insists on the rings NAME-train and NAME-test.

    Returns:
        ``{"train": RingLoader, "test": RingLoader}``, DataLoaders that know where they stand; without a test loader
        where ``test_ratio`` is 0.

    Raises:
        ValueError: another argument than a setting is out of its range.
        RingfeedError: a setting is unknown or cannot be one, an operator's daemon serves this root with other settings,
            or no daemon could be started. The sentence says which.
    """
    batch_size = whole_number("batch_size", batch_size, least=1)
    num_workers = whole_number("num_workers", num_workers, least=0)
    function_or_none("transform", transform)
    drop_last = true_or_false("drop_last", drop_last)
    root = os.fsdecode(gcs_data_root) if isinstance(gcs_data_root, str | bytes | os.PathLike) else gcs_data_root
    given = {"test_ratio": test_ratio, "emulator": emulator, **serve}
    use = Use()
    rings = shared_daemon.serve(root, given, {"fit": "native", "store_wait_s": 0}, use)
    loaders = {}
    for split, descriptor in rings.items():
        dataset = RingDataset(
            descriptor.ring,
            batch_size=batch_size,
            drop_last=drop_last,
            transform=_PairTransform(transform, descriptor.identity.label_mode),
        )
        dataset.daemon_use = use
        loaders[split] = RingLoader(dataset, num_workers=num_workers)
    return loaders


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
