"""A trainer that copies a ring's batches into a GPU. Run by `ringfeedd.bench.gpu`, a process for each measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Final

import torch

from ringfeed.torch import RingDataset
from ringfeedd.bench.contender import Task, deliver
from ringfeedd.bench.device import DEVICES, Device
from ringfeedd.bench.feeding import WAYS, ByBuffers, Straight, Tensors, Way, fed, waits
from ringfeedd.bench.gpu_figures import Copied, report


def copies(batches: list[Tensors], device: Device, *, passes: int) -> Copied:
    """Copy batches by all ways in turn, so many passes; another one before them warms up.

    There should be more of them than the processor's caches hold: each comes again only after all others.
    """
    ways: dict[str, tuple[Way, list[Tensors]]] = {
        "straight": (Straight(device), batches),
        "buffers": (ByBuffers(device), batches),
        "pinned": (Straight(device), [_pinned(batch, device) for batch in batches]),
    }
    wall_ms: dict[str, list[float]] = {name: [] for name in ways}
    cpu_us: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1 + passes):
        for name, (way, sources) in ways.items():
            wall = [_wall_ms(way, source, device) for source in sources]
            cpu = [_cpu_us(way, source, device) for source in sources]
            if number:
                wall_ms[name] += wall
                cpu_us[name] += cpu
    image, label = batches[0]
    return Copied(device.name, image.nbytes + label.nbytes, wall_ms, cpu_us)


def _pinned(batch: Tensors, device: Device) -> Tensors:
    image, label = (device.pinned(tensor) for tensor in batch)
    return image.copy_(batch[0]), label.copy_(batch[1])


def _wall_ms(way: Way, batch: Tensors, device: Device) -> float:
    device.synchronize()
    began = time.perf_counter()
    there = way(batch)
    device.synchronize()
    ended = time.perf_counter()
    del there  # its memory is the next one's
    return 1000 * (ended - began)


def _cpu_us(way: Way, batch: Tensors, device: Device) -> float:
    device.synchronize()
    began = time.thread_time_ns()
    there = way(batch)
    device.event().synchronize()  # sleeps, where the device's own `synchronize` would look again and again
    ended = time.thread_time_ns()
    del there
    return (ended - began) / 1000


def _measure_copies(task: Task, device: Device) -> None:
    taken = _endless(task)
    batches = [next(taken)[0] for _ in range(task.settings["batches"])]
    report(copies(batches, device, passes=task.settings["passes"]))


def _measure_feeding(task: Task, device: Device) -> None:
    way = WAYS[task.settings["way"]](device)
    shown = bool(task.check_pairs)
    deliver(task, fed(_endless(task, ids=shown), device, way, shown=shown))


def _measure_waits(task: Task, device: Device) -> None:
    settings = task.settings
    way = WAYS[settings["way"]](device)
    report(
        waits(_dataset(task), device, way, epochs=settings["epochs"], step_s=settings["step_s"], pause=time.sleep),
    )


def _endless(task: Task, *, ids: bool = False) -> Generator[tuple[Tensors, Callable[[], list[str]]], None, None]:
    """Epoch after epoch. ``ids``: they will be asked for."""
    dataset = _dataset(task, ids=ids)
    while True:
        for image, label, *rest in dataset:
            yield (image, label), lambda rest=rest: rest[0]  # type: ignore[misc]


def _dataset(task: Task, *, ids: bool = False) -> RingDataset:
    fields = ("image", "label", "ids") if ids else ("image", "label")
    return RingDataset(task.settings["ring"], batch_size=task.batch_size, fields=fields)


MEASURES: Final = {"copies": _measure_copies, "feeding": _measure_feeding, "waits": _measure_waits}
"""By what a task's settings call them."""

if __name__ == "__main__":
    torch.set_num_threads(1)  # what a memcpy costs is counted by this thread's clock
    the_task = Task.from_argument()
    MEASURES[the_task.settings["measure"]](the_task, DEVICES[the_task.settings["device"]]())
