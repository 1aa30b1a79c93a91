"""What Hugging Face's Accelerate does with a loader, so that its ranks get the same batches as without it.

Accelerate takes a DataLoader apart in ``prepare()`` and builds another one of its dataset: one that reads on rank 0 and
broadcasts, or one that picks each rank's part. A ring's ranks have their parts already. A `RingLoader` therefore bears
Accelerate's own mark of what it has prepared, and does by itself what prepared loaders do besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from ringfeed.errors import RingfeedError

_MODULE: Final = "accelerate.data_loader"


def prepared(batches: Iterator[Any], loader: Any, is_last: Callable[[], bool]) -> Iterator[Any]:  # noqa: ANN401
    """Yield batches on the device of this process, and let Accelerate know of the last, as its own loaders do.

    Args:
        loader: as which Accelerate knows it; its ``end_of_dataloader`` is set for gradient accumulation.
        is_last: whether the batch that came last ends its epoch.
    """
    from accelerate.state import GradientState, PartialState  # noqa: PLC0415  # only where it is in use
    from accelerate.utils import send_to_device  # noqa: PLC0415

    device, gradients = PartialState().device, GradientState()
    loader.end_of_dataloader = False
    gradients._add_dataloader(loader)  # noqa: SLF001  # it has no public way
    try:
        for batch in batches:
            loader.end_of_dataloader = is_last()
            yield send_to_device(batch, device)
    finally:
        gradients._remove_dataloader(loader)  # noqa: SLF001


def counts_by_itself(caller: FrameType | None) -> bool:
    """Return whether a call of ``set_epoch`` comes from a loader of Accelerate's that counts its own iterations.

    It counts from 0 in every process, whatever epoch the ring is in, so its count means nothing here.

    Raises:
        RingfeedError: that loader would share out what this rank reads, which is its share already.
    """
    counts = False
    while caller is not None and caller.f_globals.get("__name__") == _MODULE:
        owner = caller.f_locals.get("self")
        kind, state = type(owner).__name__, getattr(owner, "state", None)
        if kind == "IterableDatasetShard" or (kind == "DataLoaderDispatcher" and state and state.num_processes > 1):
            raise RingfeedError(
                "Accelerate would share this dataset's batches out among its processes, and each of them reads a share "
                "of its own already. Give prepare() a ringfeed.torch.RingLoader, which it takes as it is, or do not "
                "prepare the loader."
            )
        counts = counts or caller.f_code.co_name == "__iter__"
        caller = caller.f_back
    return counts
