"""The loader: a DataLoader over one ring that knows where it stands."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _InfiniteConstantSampler

from ringfeed.arguments import whole_number
from ringfeed.errors import SupersededError
from ringfeed.reader.place.iteration import superseded
from ringfeed.reader.state import following_epoch
from ringfeed.torch.accelerate import prepared
from ringfeed.torch.dataset import RingDataset
from ringfeed.torch.workers.requests import Requests
from ringfeed.torch.workers.told import ItemCollate

_OTHERS_SETTINGS: Final = {
    "batch_size": ((None,), "a batch is the dataset's: RingDataset(..., batch_size=...)"),
    "drop_last": ((None, False), "the dataset says so: RingDataset(..., drop_last=...)"),
    "shuffle": ((None, False), "the daemon orders the pairs: `ringfeed serve --order`"),
    "sampler": ((None,), "the daemon orders the pairs: `ringfeed serve --order`"),
    "batch_sampler": ((None,), "the daemon orders the pairs: `ringfeed serve --order`"),
}
"""Options of a DataLoader that are not a `RingLoader`'s to decide: the values that decide nothing, and what does."""


class RingSampler(_InfiniteConstantSampler):
    """In the place of a sampler, where the daemon orders the pairs: what torch has there, and what to use instead."""

    def __len__(self) -> NoReturn:
        """Refuse to be counted.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "A RingLoader has no sampler to count: the daemon orders the pairs. len(loader) is the number of batches "
            "in this rank's next epoch."
        )

    def __getattr__(self, name: str) -> NoReturn:
        """Raise AttributeError, also for `set_epoch`, which the loader has."""
        raise AttributeError(
            f"A RingLoader's sampler has no {name}, as the daemon orders the pairs: use loader.set_epoch(epoch), "
            f"loader.state_dict() and `ringfeed serve --order`."
        )


class RingLoader(DataLoader[Any]):
    """A DataLoader over a `RingDataset` that knows where it stands, whatever number of workers it has.

    ``state_dict()`` counts the batches that it has yielded, not those that its workers have prefetched. It is the same
    plain dict as a dataset's or a reader's: a job may go on with another number of workers, or none.

    It makes one pass at a time: an iteration that is superseded by a later one raises `SupersededError` when it is
    asked for its next batch.
    """

    def __init__(self, dataset: RingDataset, *, num_workers: int = 0, **options: Any) -> None:  # noqa: ANN401
        """Wrap a dataset; ``options`` are a DataLoader's, save those that the dataset or the daemon decides.

        Raises:
            TypeError: the dataset is not a `RingDataset`.
            ValueError: an option is the dataset's or the daemon's to decide, or would let workers yield out of turn.
        """
        if not isinstance(dataset, RingDataset):
            raise TypeError(f"RingLoader wraps a RingDataset, and was given a {type(dataset).__name__}")
        for name, (harmless, instead) in _OTHERS_SETTINGS.items():
            if (given := options.pop(name, None)) not in harmless:
                raise ValueError(f"RingLoader takes no {name}={given!r}: {instead}")
        num_workers = whole_number("num_workers", num_workers, least=0)
        if num_workers > 1 and not options.get("in_order", True):
            raise ValueError(
                "RingLoader takes no in_order=False: its workers yield in turn, which is what lets its state name the "
                "batches that were yielded. Leave in_order as it is, or use a plain DataLoader, which has no state."
            )
        super().__init__(dataset, batch_size=None, num_workers=num_workers, **options)
        self.__dict__["sampler"] = RingSampler()  # DataLoader refuses to have it set
        self.collate_fn = ItemCollate(self.collate_fn)
        self._ring_dataset = dataset
        self._state: dict[str, Any] | None = None
        self._pass: weakref.ref[_Pass] | None = None
        self._accelerated = False
        self._taken = 0  # batches of the latest iteration by workers
        self._requests: Requests | None = None  # as the workers of that iteration see them
        self._sent = False  # to an epoch, since the latest batch

    def __getstate__(self) -> dict[str, Any]:
        """Leave what runs out: iterations and workers are this process's."""
        return {**self.__dict__, "_pass": None, "_iterator": None, "_requests": None}

    def __len__(self) -> int:
        """Batches, not pairs, of this rank's next epoch.

        That is a whole one, save where a loader without workers joins others in the middle of theirs.

        Raises:
            DaemonNotRunningError: no daemon serves the ring.
        """
        dataset, workers = self._ring_dataset, self.num_workers
        if not workers:
            dataset.attach_to_count()
        return dataset.batches_of_workers(workers) if workers else len(dataset)

    def __iter__(self) -> Any:  # noqa: ANN401  # a DataLoader calls it an iterator of its own kind
        """One epoch.

        Raises:
            SupersededError: a later iteration has begun before this one's end.
        """
        batches = self._begin() if self.num_workers else super().__iter__()
        return prepared(batches, self, self._at_an_epochs_start) if self._accelerated else batches

    def _begin(self) -> Iterator[Any]:
        """An iteration by workers. Where it begins is kept until it is more than a look, to begin there again."""
        dataset, beginning = self._ring_dataset, self._ring_dataset.beginning
        self._supersede()
        if beginning.chosen:
            self._iterator = None  # persistent workers have gone on from there
        dataset.settle_ranks()
        dataset.leave_to_workers()
        if self._state is not None:
            if self._taken and self._requests is not None and self._requests.latest().is_look():
                beginning.repeat(self._state)
            else:
                beginning.go_on_from(self._state)
        self._taken = 0
        if self._requests is None or self._iterator is None:
            self._requests = Requests()
        self._requests.begin()
        dataset.requests = self._requests  # its workers take this along; another loader's of the same dataset do not
        try:
            batches = super().__iter__()
        finally:
            dataset.requests = None
        current = _Pass(self, batches, self._requests)
        self._pass = weakref.ref(current)
        return current

    # What Accelerate looks at, see `accelerated`.

    use_stateful_dataloader = True
    """Accelerate saves the state with its own, and loads it."""

    end_of_dataloader = False
    remainder = -1

    @property
    def _is_accelerate_prepared(self) -> bool:
        """Accelerate's prepare() asks, and leaves a loader as it is that says so."""
        self._accelerated = "accelerate" in sys.modules
        return True

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, prepared: bool) -> None:
        """It is."""

    def _at_an_epochs_start(self) -> bool:
        return not self.state_dict()["position"]

    @property
    def ring(self) -> str:
        """The ring's name."""
        return self._ring_dataset.ring

    def close(self) -> None:
        """End the workers and detach; the state stays what it was, and a later iteration attaches again.

        Nothing is kept in the ring for it, so other readers begin without a wait.
        """
        self._supersede()
        self._iterator = None
        self._ring_dataset.close()

    # Where it stands.

    def state_dict(self) -> dict[str, Any]:
        """Return where the group stands after the batch that was yielded last, at any moment of the loader's life.

        Before the first batch that is where it will begin; see `RingDataset.state_dict`.

        Raises:
            RuntimeError: workers of another DataLoader have read from its dataset.
            DaemonNotRunningError: nothing was read yet, and no daemon serves the ring.
        """
        if self._state is None:
            return self._ring_dataset.state_dict()
        epoch = self._ring_dataset.beginning.epoch if self._sent else None
        if epoch is None or (epoch == self._state["epoch"] and not self._state["position"]):
            return dict(self._state)
        if epoch == following_epoch(self._state):
            return {**self._state, "epoch": epoch, "position": 0}
        return self._ring_dataset.state_dict()

    def told(self, state: dict[str, Any] | None) -> None:
        """A worker's batch is yielded, after which the group stands there; or none is left, if there is no state."""
        self._taken += 1
        self._sent = False
        beginning = self._ring_dataset.beginning
        if state is None or self._taken > 1:
            beginning.forget()
        self._state = self._state if state is None else state

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go on where a state stands; the next iteration is the rest of that epoch. As the dataset's."""
        self._ring_dataset.load_state_dict(state, strict=strict)
        self._state = None
        self._end_workers()

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be ``epoch``, as a DistributedSampler does."""
        self._ring_dataset.set_epoch(epoch)
        self._sent = True
        if self._state is None or epoch != following_epoch(self._state):
            self._end_workers()

    def _end_workers(self) -> None:
        """Persistent workers have a dataset each, which learns nothing of this one's: let new ones begin."""
        if self.num_workers:
            self._supersede()
            self._iterator = None

    def _supersede(self) -> None:
        if self._pass is not None and (former := self._pass()) is not None:
            former.supersede()
        self._pass = None


class _Pass(Iterator[Any]):
    """One iteration of a loader with workers: keeps the loader's state, and lets its workers go once superseded."""

    def __init__(self, loader: RingLoader, batches: Iterator[Any], requests: Requests) -> None:
        self._loader = loader
        self._batches: Iterator[Any] | None = batches
        self._requests = requests
        self._superseded = False

    def __next__(self) -> Any:  # noqa: ANN401  # what transforms return
        if self._batches is None:
            if self._superseded:
                raise SupersededError(superseded(self._loader.ring))
            raise StopIteration
        self._requests.ask()
        try:
            item, state = next(self._batches)
        except StopIteration:
            self._requests.ask()  # an epoch that was read to its end is more than a look, however short
            self._end()
            self._loader.told(None)
            raise
        self._loader.told(state)
        return item

    def supersede(self) -> None:
        """A later iteration begins."""
        self._superseded = self._batches is not None
        self._end()

    def __del__(self) -> None:
        """Let workers that wait for their next batch end at once; torch would wait 5 s for them, and kill them."""
        self._end()

    def _end(self) -> None:
        if self._batches is not None:
            self._requests.end()
            self._batches = None
