"""What a rank hands back to the demo: one JSON file of figures, and for rank 0 the arrays of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


class RankReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rank's figures over all its epochs.

    Attributes:
        rank: its number, from 0.
        pairs: pairs it trained on.
        batches: batches it got.
        waiting_s: time inside ``next()`` of the loader, the first batch's included.
        longest_wait_s: the longest of these waits.
        training_s: from the first ``next()`` to the last step's end.
        first_loss: of the first batch, before any step.
        losses: the mean of each epoch.
    """

    rank: int
    pairs: int
    batches: int
    waiting_s: float
    longest_wait_s: float
    training_s: float
    first_loss: float
    losses: list[float]

    def write(self, folder: Path) -> None:
        """Writes it to the folder, under the rank's name."""
        (folder / f"rank-{self.rank}.json").write_bytes(msgspec.json.encode(self))


def read_reports(folder: Path, ranks: int) -> list[RankReport]:
    """The reports of all ranks, in their order.

    Raises:
        FileNotFoundError: a rank wrote none.
    """
    paths = (folder / f"rank-{rank}.json" for rank in range(ranks))
    return [msgspec.json.decode(path.read_bytes(), type=RankReport) for path in paths]


class Specimens(msgspec.Struct, frozen=True):
    """Some pairs as they came out of the ring, and what the trained net says of them.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N, H, W) uint8, indices of classes.
        predictions: the same.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    predictions: npt.NDArray[np.uint8]

    def write(self, folder: Path) -> None:
        """Writes the arrays to the folder."""
        np.savez(folder / "specimens.npz", images=self.images, labels=self.labels, predictions=self.predictions)


def read_specimens(folder: Path) -> Specimens:
    """The arrays that rank 0 wrote."""
    with np.load(folder / "specimens.npz") as arrays:
        return Specimens(arrays["images"], arrays["labels"], arrays["predictions"])
