"""What a trainer with a GPU does with batches, whichever loader it has: copy them, reduce them, wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, Final, TypeAlias

import torch

from ringfeedd.bench.contender import Delivered
from ringfeedd.bench.device import Device, Event
from ringfeedd.bench.gpu_figures import Waits

Tensors: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Image ``(B, 3, H, W)`` uint8, of any strides, and label ``(B, H, W)`` uint8."""

Way: TypeAlias = Callable[[Tensors], Tensors]
"""Starts a batch's copy into the device's memory; what it was given is kept until an event after it."""


class Straight:
    """A way: from where the batch lies, as ``batch.to(device, non_blocking=True)`` does."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __call__(self, batch: Tensors) -> Tensors:
        """See `Way`."""
        image, label = batch
        return self._device.copy(image), self._device.copy(label)


class ByBuffers:
    """A way: by page-locked buffers of the trainer's own, which take turns; made at the first batch, of its shape."""

    TURNS: Final = 2
    """One is filled while the device reads the other."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._buffers: list[tuple[Tensors, Event]] = []

    def __call__(self, batch: Tensors) -> Tensors:
        """See `Way`."""
        if len(self._buffers) < self.TURNS:
            image, label = (self._device.pinned(tensor) for tensor in batch)
        else:
            (image, label), read = self._buffers.pop(0)
            read.synchronize()  # only then may it be written over
        image.copy_(batch[0])
        label.copy_(batch[1])
        copied = self._device.copy(image), self._device.copy(label)
        self._buffers.append(((image, label), self._device.event()))
        return copied


WAYS: Final[dict[str, Callable[[Device], Way]]] = {"straight": Straight, "buffers": ByBuffers}
"""By what a task's settings call them."""


def reduce(batch: Tensors) -> Tensors:
    """Work for the device that reads every byte: the images' mean by channel, and the labels', both float32."""
    image, label = batch
    return image.float().mean(dim=(0, 2, 3)), label.float().mean()


def fed(
    batches: Iterable[tuple[Tensors, Callable[[], list[str]]]], device: Device, way: Way, *, shown: bool
) -> Generator[Delivered, None, None]:
    """Feed a device, as a training loop does that waits for each step one batch later: copies and work overlap.

    Args:
        batches: each with what makes its ids.
        shown: pixels are to be looked at, so they come back from the device, images as ``(B, H, W, 3)``.
    """
    before: tuple[Event, Tensors] | None = None
    try:
        for batch, ids in batches:
            there = way(batch)
            reduce(there)
            done = device.event()
            if before is not None:
                before[0].synchronize()
            before = done, batch  # with its slots: see `ringfeedd.bench.device.Cuda`
            image, label = (there[0].permute(0, 2, 3, 1).cpu(), there[1].cpu()) if shown else there
            yield Delivered(image, label, ids)
    finally:
        device.synchronize()  # before the last batch's slots are given back


def waits(
    loader: Iterable[Tensors], device: Device, way: Way, *, epochs: int, step_s: float, pause: Callable[[float], Any]
) -> Waits:
    """Train for some epochs, with steps that take their time, and look at the clock.

    The first epoch's beginning is a start and not counted, nor is its rest. An epoch's end, with what the loader then
    puts away, belongs to the wait for the next one's first batch, as it does for a GPU.

    Args:
        loader: an iteration is an epoch.
        step_s: of one step, which is a pause here: the loader can go on meanwhile.
        pause: called with it: `time.sleep`.
    """
    first_ms: list[float] = []
    other_ms: list[float] = []
    step_ended = time.perf_counter()
    for epoch in range(1 + epochs):
        waited_ms = first_ms
        for batch in loader:
            there = way(batch)
            device.synchronize()
            if epoch:
                waited_ms.append(1000 * (time.perf_counter() - step_ended))
            waited_ms = other_ms
            pause(step_s)
            del there, batch  # a trainer that kept them would hold its slots while it waits
            step_ended = time.perf_counter()
    return Waits(first_ms, other_ms)
