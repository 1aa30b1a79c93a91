"""One training rank of the demo: a small segmentation net, fed by the ring; started by torchrun."""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from ringfeedd.demo.report import RankReport, Specimens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Batch = tuple[torch.Tensor, torch.Tensor]

CLASSES = 7
"""As many as the demo's label maps hold; a test compares it with them, since this module does without their making."""

STRIDE = 4
"""The net predicts one pixel of so many each way; the loss is taken there, which is enough to learn from."""

LEARNING_RATE = 1e-2
SPECIMENS = 5


class SmallNet(nn.Module):
    """A few convolutions: quick on one noisy core, and enough to tell regions by their colours."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(3, 16, stride=2),
            *_convolution(16, 24, stride=2),
            *_convolution(24, 24, dilation=2),
            nn.Conv2d(24, CLASSES, 1),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores of the classes.

        Args:
            image: (B, 3, H, W) uint8.

        Returns:
            (B, CLASSES, H / STRIDE, W / STRIDE) float32, rounded up.
        """
        # `float` copies: the ring's pixels are others' as well, and are only read.
        scores: torch.Tensor = self.layers(image.float().div_(127.5).sub_(1.0))
        return scores


def _convolution(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


@dataclass
class Stopwatch:
    """Times a loader's ``next()``."""

    waiting_s: float = 0.0
    longest_s: float = 0.0
    batches: int = 0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each of them came is added up, the end's included."""
        iterator = iter(batches)
        while True:
            begin = time.perf_counter()
            batch = next(iterator, None)
            waited_s = time.perf_counter() - begin
            self.waiting_s += waited_s
            self.longest_s = max(self.longest_s, waited_s)
            if batch is None:
                return
            self.batches += 1
            yield batch


@dataclass
class Training:
    """A rank's training loop, and what it counts on the way.

    Attributes:
        loader: a pass over it is an epoch; it gives image (B, 3, H, W) uint8 and label (B, H, W) uint8.
        net: the net to train.
        rank: this rank's number; rank 0 shows the progress.
        batches_an_epoch: for the progress bar; None where it is not known.
    """

    loader: Iterable[Batch]
    net: SmallNet
    rank: int
    batches_an_epoch: int | None = None
    _first: Batch | None = field(default=None, init=False)

    def run(self, epochs: int, parallel: Callable[[nn.Module], nn.Module] = lambda net: net) -> RankReport:
        """Trains for some epochs.

        Args:
            epochs: passes over the loader.
            parallel: makes the ranks train one net together; what it wraps the net in is used for the steps alone,
                since its every call waits for the other ranks.
        """
        stepped = parallel(self.net)
        optimizer = torch.optim.Adam(self.net.parameters(), LEARNING_RATE)
        stopwatch = Stopwatch()
        losses: list[list[float]] = []
        pairs = 0
        begin = time.perf_counter()
        for epoch in range(epochs):
            losses.append([])
            with tqdm(
                desc=f"epoch {epoch + 1}/{epochs}, rank 0",
                total=self.batches_an_epoch,
                unit=" batches",
                disable=self.rank != 0,
                dynamic_ncols=True,
            ) as progress:
                for image, label in stopwatch.timed(self.loader):
                    if self._first is None:  # a copy: the batch's own slots go back to the ring
                        self._first = image[:SPECIMENS].clone(), label[:SPECIMENS].clone()
                    loss = functional.cross_entropy(stepped(image), coarse(label))
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    losses[-1].append(loss.item())
                    pairs += len(image)
                    progress.set_postfix(loss=f"{losses[-1][-1]:.3f}", refresh=False)
                    progress.update()
        return RankReport(
            rank=self.rank,
            pairs=pairs,
            batches=stopwatch.batches,
            waiting_s=stopwatch.waiting_s,
            longest_wait_s=stopwatch.longest_s,
            training_s=time.perf_counter() - begin,
            first_loss=losses[0][0] if losses and losses[0] else math.nan,
            losses=[sum(epoch) / len(epoch) if epoch else math.nan for epoch in losses],
        )

    @torch.no_grad()
    def specimens(self) -> Specimens:
        """The first pairs of the first batch, and what the net says of them now."""
        assert self._first is not None, "specimens before the first batch"
        image, label = self._first
        self.net.eval()
        scores = functional.interpolate(self.net(image), size=image.shape[-2:], mode="bilinear")
        return Specimens(
            images=np.ascontiguousarray(image.permute(0, 2, 3, 1).numpy()),
            labels=label.numpy(),
            predictions=scores.argmax(1).to(torch.uint8).numpy(),
        )


def coarse(label: torch.Tensor) -> torch.Tensor:
    """Every `STRIDE`-th pixel of (B, H, W) class indices, as int64: the ones that the net's pixels are centred on."""
    return label[:, ::STRIDE, ::STRIDE].long()


def main() -> int:
    """The rank's process."""
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="torchrun -m ringfeedd.demo.train")
    parser.add_argument("--ring", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    from ringfeed.torch import RingDataset  # noqa: PLC0415 - the net is of use, and tested, without a ring

    torch.set_num_threads(1)  # the ranks and the daemon share the machine
    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo")
    try:
        dataset = RingDataset(options.ring, batch_size=options.batch_size)
        loader = torch.utils.data.DataLoader(dataset, batch_size=None)
        training = Training(loader, SmallNet(), torch.distributed.get_rank(), len(dataset))
        training.run(options.epochs, nn.parallel.DistributedDataParallel).write(options.out)
        if training.rank == 0:
            training.specimens().write(options.out)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
