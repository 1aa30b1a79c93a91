"""Where batches go: an NVIDIA GPU, or main memory in its place, so that all of it runs on a machine without one.

Everything that knows of CUDA stands here. Work is given to one stream, torch's current one, in the order of the calls.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch


class Event(Protocol):
    """A moment in what a device was given to do."""

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given before this moment."""
        ...


class Device(Protocol):
    """What a trainer does with its GPU."""

    @property
    def name(self) -> str:
        """For people: the hardware, and what drives it."""
        ...

    def copy(self, source: torch.Tensor) -> torch.Tensor:
        """A copy in the device's memory, of the same shape, dtype and strides.

        It may return before ``source`` has been read to its end: keep that unchanged until an `event` after it.
        """
        ...

    def event(self) -> Event:
        """This moment. Waiting for it takes no CPU."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given; as soon as it has, at the price of the CPU."""
        ...

    def pinned(self, like: torch.Tensor) -> torch.Tensor:
        """Main memory that the device can read by itself: of the same shape, dtype and strides, with anything in it."""
        ...


class Cuda:
    """The first NVIDIA GPU that this process sees.

    `copy` from page-locked memory is a DMA that the CPU only starts. From pageable memory, as a ring's, CUDA copies by
    way of page-locked memory of its own, on the caller's CPU. Whether the call returns only once the source has been
    read is promised for ``cudaMemcpy``; of ``cudaMemcpyAsync``, which is ``non_blocking=True``, NVIDIA says that it
    "might" (CUDA Driver API, "API synchronization behavior"; for CUDA 11 and older a thread of the driver did it). So a
    slot of the ring is kept as well until an event after the copy: that costs nothing but the slot.
    """

    @property
    def name(self) -> str:
        """See `Device.name`."""
        return f"{torch.cuda.get_device_name()} (torch {torch.__version__}, CUDA {torch.version.cuda})"

    def copy(self, source: torch.Tensor) -> torch.Tensor:
        """See `Device.copy`."""
        return source.to("cuda", non_blocking=True)

    def event(self) -> Event:
        """See `Device.event`."""
        # not blocking, the wait for it would be a loop, and count as the trainer's CPU
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def synchronize(self) -> None:
        """See `Device.synchronize`."""
        torch.cuda.synchronize()

    def pinned(self, like: torch.Tensor) -> torch.Tensor:
        """See `Device.pinned`."""
        return torch.empty_like(like, pin_memory=True)


class _Now:
    """A moment of a device that has always done everything."""

    def synchronize(self) -> None:
        """Nothing to wait for."""


class MainMemory:
    """The twin: copies at once, by the CPU."""

    @property
    def name(self) -> str:
        """See `Device.name`."""
        return f"no GPU, but main memory in its place (torch {torch.__version__})"

    def copy(self, source: torch.Tensor) -> torch.Tensor:
        """See `Device.copy`."""
        return source.clone()

    def event(self) -> Event:
        """See `Device.event`."""
        return _Now()

    def synchronize(self) -> None:
        """See `Device.synchronize`."""

    def pinned(self, like: torch.Tensor) -> torch.Tensor:
        """See `Device.pinned`."""
        return torch.empty_like(like)


DEVICES: Final[dict[str, type[Cuda | MainMemory]]] = {"cuda": Cuda, "cpu": MainMemory}
"""By torch's names for them."""
