"""The loader: a DataLoader over one ring that knows where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader

from ringfeed.dataset import RingDataset
from ringfeed.state import following_epoch


class RingLoader(DataLoader[Any]):
    """A DataLoader over a `RingDataset` that knows where it stands, whatever number of workers it has.

    ``state_dict()`` counts the batches that it has yielded, not those that its workers have prefetched. It is the same
    plain dict as a dataset's or a reader's: a job may go on with another number of workers, or none.
    """

    def __init__(self, dataset: RingDataset, *, num_workers: int = 0, **options: Any) -> None:  # noqa: ANN401
        """Wrap a dataset; ``options`` are a DataLoader's, without ``batch_size``, which is the dataset's."""
        super().__init__(dataset, batch_size=None, num_workers=num_workers, **options)
        self._ring_dataset = dataset
        self._state: dict[str, Any] | None = None
        dataset.tells_places = num_workers > 0

    def __len__(self) -> int:
        """Batches of a whole epoch.

        Raises:
            DaemonNotRunningError: no daemon serves the ring.
        """
        dataset, workers = self._ring_dataset, self.num_workers
        return dataset.batches_of_workers(workers) if workers else len(dataset)

    def __iter__(self) -> Any:  # noqa: ANN401  # a DataLoader calls it an iterator of its own kind
        """One epoch."""
        if not self.num_workers:
            yield from super().__iter__()
            return
        self._ring_dataset.settle_ranks()
        if self._state is not None:
            self._ring_dataset.go_on_from(self._state)
        batches = super().__iter__()
        self._ring_dataset.forget_resume()
        for item, state in batches:
            self._state = state
            yield item

    def state_dict(self) -> dict[str, Any]:
        """Where the group stands after the batch that was yielded last.

        Raises:
            RuntimeError: nothing was yielded and no state was loaded.
        """
        return self._ring_dataset.state_dict() if self._state is None else dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go on where a state stands; the next iteration is the rest of that epoch. As the dataset's."""
        self._ring_dataset.load_state_dict(state, strict=strict)
        self._state = None
        self._end_workers()

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be ``epoch``, as a DistributedSampler does."""
        self._ring_dataset.set_epoch(epoch)
        if self._state is None or epoch != following_epoch(self._state):
            self._end_workers()

    def _end_workers(self) -> None:
        """Persistent workers have a dataset each, which hears nothing of this one's: let new ones begin."""
        if self.num_workers:
            self._iterator = None
