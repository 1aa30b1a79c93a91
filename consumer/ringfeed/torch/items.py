"""What a dataset yields of each batch: which fields, as which tensors, transformed by what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils.data import default_collate

from ringfeed.arguments import function_or_none
from ringfeed.reader.batch import Batch
from ringfeed.reader.fields import Pixels
from ringfeed.torch.tensor import over_ring, plain

PIXELS: Final = ("image", "label")
_HWC_AS_CHW: Final = (2, 0, 1)
_BHWC_AS_BCHW: Final = (0, 3, 1, 2)
FIELDS: Final = ("image", "label", "valid", "ids", "epoch", "positions")


@dataclass(frozen=True)
class Items:
    """Makes a dataset's items of batches; the arguments are `RingDataset`'s.

    Raises:
        ValueError: a field is unknown, or a transform is none or has nothing to be called with.
    """

    fields: tuple[str, ...]
    transform: Callable[[tuple[Any, Any]], Any] | None
    batch_transform: Callable[[Any], Any] | None
    copy: bool
    channels_last: bool

    def __post_init__(self) -> None:
        function_or_none("transform", self.transform)
        function_or_none("batch_transform", self.batch_transform)
        if unknown := [name for name in self.fields if name not in FIELDS]:
            raise ValueError(f"fields has {unknown[0]!r}; known are {', '.join(FIELDS)}")
        if self.transform is not None and self.fields[:2] != PIXELS:
            raise ValueError("transform takes (image, label), so fields must begin with these two")

    def of(self, batch: Batch) -> Any:  # noqa: ANN401  # what transforms return
        """Return the item of a batch; it keeps the batch's slots as long as tensors over the ring are in it."""
        if self.fields == PIXELS and self.transform is None and self.batch_transform is None:
            return self._tensor(batch.image), self._tensor(batch.label)
        values = {name: getattr(batch, name) for name in self.fields}
        for name in ("valid", "positions"):
            if name in values:
                values[name] = torch.from_numpy(values[name])
        for name in PIXELS:
            if name in values:
                values[name] = self._tensor(values[name])
        if self.transform is None:
            item = tuple(values.values()) if len(values) > 1 else next(iter(values.values()))
        else:
            pairs = [self.transform((values["image"][i], values["label"][i])) for i in range(len(batch))]
            collated = default_collate(pairs)
            rest = [values[name] for name in self.fields[2:]]
            item = (*collated, *rest) if rest else collated
        return item if self.batch_transform is None else self.batch_transform(item)

    def _tensor(self, pixels: Pixels | list[Pixels]) -> Any:  # noqa: ANN401  # a tensor or a list of them
        make = plain if self.copy else over_ring
        if isinstance(pixels, list):
            pairs = [make(array, _HWC_AS_CHW if array.ndim == 3 else None) for array in pixels]
            return pairs if self.channels_last else [pair.contiguous() for pair in pairs]
        tensor = make(pixels, _BHWC_AS_BCHW if pixels.ndim == 4 else None)
        return tensor if self.channels_last else tensor.contiguous()
