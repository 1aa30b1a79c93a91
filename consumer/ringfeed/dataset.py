"""The dataset: the batches of a ring as tensors, in one process, in DDP ranks, and in a DataLoader's workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

import ringfeed
from ringfeed.batch import Batch
from ringfeed.descriptor import read_descriptor
from ringfeed.field_rows import Pixels
from ringfeed.guard import over_ring, plain
from ringfeed.ranks import (
    Ranks,
    check_agreement,
    check_nodes,
    default_group,
    given_ranks,
    loader_pid,
    next_serial,
    ranks_to_tell,
    resolve_ranks,
)
from ringfeed.reader import Reader
from ringfeed.state import ResumeState, following_epoch
from ringfeed.succession import RESTART_S

_PIXELS: Final = ("image", "label")
_FIELDS: Final = ("image", "label", "valid", "ids", "epoch", "positions")


class RingDataset(IterableDataset[Any]):
    """The batches of a ring as tensors that lie in the ring.

    Use it with ``DataLoader(dataset, batch_size=None)``, or iterate over it directly; each iteration is one epoch. It
    attaches in the process that iterates, at its first iteration, so it may be made before a fork or sent to a spawned
    process. In a DataLoader's worker processes it works too, each worker being a sub-rank of its rank; batches are then
    copied between processes, which costs more than it saves unless the transform is heavy. With workers, take a
    `RingLoader`: it knows where they stand, and tells it to the next epoch's.

    Yields ``(image, label)``: image ``(B, 3, H, W)`` uint8, a channels-last view; label ``(B, 3, H, W)`` uint8 with
    label mode rgb, else ``(B, H, W)`` uint8 or uint16. With ``fit="native"`` two lists of B such tensors, ``(3, h,
    w)`` each. Tensors cannot be written into (see `RingTensor`); their slots are kept until the last tensor over
    them is gone.
    """

    def __init__(
        self,
        ring: str = "train",
        *,
        batch_size: int,
        group: str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        drop_last: bool = True,
        start: str | tuple[int, int] | Mapping[str, Any] = "auto",
        wait: bool = False,
        transform: Callable[[tuple[Any, Any]], Any] | None = None,
        batch_transform: Callable[[Any], Any] | None = None,
        fields: Sequence[str] = ("image", "label"),
        on_lag: str = "block",
        copy: bool = False,
        wait_s: float = 0.0,
        restart_s: float = RESTART_S,
    ) -> None:
        """Say what to read; nothing is attached yet. Arguments not named here are those of `ringfeed.attach`.

        Args:
            batch_size: pairs in one batch of this rank.
            group: by default a name that the ranks of one torchrun job share.
            rank, world_size: by default those of torch.distributed, or of torchrun's environment, or 0 of 1, as they
                are when the first iteration begins. In a torchrun job over several machines those on this machine,
                whose daemon must serve its share of as many (``ringfeed serve --num-nodes``); the first iteration
                insists on it.
            transform: called with (image, label) tensors of one pair; the results are collated.
            batch_transform: called with what would be yielded.
            fields: what to yield, of image, label, valid, ids, epoch, positions.
            copy: yield plain tensors that may be written into, at one memcpy a batch.

        Raises:
            ValueError: an argument is out of its range.
        """
        super().__init__()
        if unknown := [name for name in fields if name not in _FIELDS]:
            raise ValueError(f"fields has {unknown[0]!r}; known are {', '.join(_FIELDS)}")
        if transform is not None and tuple(fields[:2]) != _PIXELS:
            raise ValueError("transform takes (image, label), so fields must begin with these two")
        self.ring = ring
        self.batch_size = batch_size
        self._given_ranks = given_ranks(rank, world_size)
        self._settled: tuple[int, Ranks] | None = None  # the process that began to read, and as which rank
        self._told: tuple[int, Ranks] | None = None  # the process that sent this dataset here, and its ranks
        self.drop_last = drop_last
        self.start = start if isinstance(start, str) else "auto"
        self.wait = wait
        self.transform = transform
        self.batch_transform = batch_transform
        self.fields = tuple(fields)
        self.on_lag = on_lag
        self.copy = copy or on_lag == "skip"
        self.wait_s = wait_s
        self.restart_s = restart_s
        self._given_group = group
        self._serial = next_serial(ring, self._given_ranks)
        self._reader: Reader | None = None
        self._pid = os.getpid()
        self._epoch: int | None = None
        # Where to begin once, and whether strictly; what is iterated later goes on by itself.
        self._resume: tuple[tuple[int, int] | Mapping[str, Any], bool] | None = None
        self._loaded_by = os.getpid()
        if not isinstance(start, str):
            self._resume = (start, True)
        self._went_on = False  # to that place by reading, so that there was a daemon
        self.tells_places = False

    def __getstate__(self) -> dict[str, Any]:
        """Leave the reader out: the process that this is sent to attaches by itself.

        It says which rank it was sent by, for a DataLoader's spawned worker, where torch.distributed does not.
        """
        return {**self.__dict__, "_reader": None, "_told": ranks_to_tell()}

    def __repr__(self) -> str:
        ranks = self._given_ranks or (self._settled and self._settled[1])
        rank = f", rank {ranks.rank}/{ranks.world_size}" if ranks else ""
        group = f", group={self.group!r}" if ranks or self._given_group else ""
        return f"RingDataset({self.ring!r}, batch_size={self.batch_size}{group}{rank})"

    @property
    def ranks(self) -> Ranks:
        """Rank and world size as this process reads, or would if it began now.

        Raises:
            ValueError: the machines of the job have unequal numbers of ranks.
        """
        if self._given_ranks is not None:
            return self._given_ranks
        if self._told is not None and self._told[0] == loader_pid():
            return self._told[1]
        if self._settled is not None and self._settled[0] == os.getpid():
            return self._settled[1]
        return resolve_ranks()

    @property
    def group(self) -> str:
        """The group's name: as given, else one that follows from the ranks."""
        return self._given_group or default_group(self.ranks, self._serial)

    def settle_ranks(self) -> Ranks:
        """Return the ranks that the iteration which begins now reads as; later ones have to read as the same.

        Raises:
            RingfeedError: an earlier iteration of this process read as others.
        """
        ranks = self.ranks
        if self._given_ranks is None and self._settled is not None and self._settled[0] == os.getpid():
            check_agreement(self.ring, ranks)
        self._settled = (os.getpid(), ranks)
        return ranks

    def __len__(self) -> int:
        """Batches that this rank gets in a whole epoch, without DataLoader workers; `RingLoader` counts with them.

        Raises:
            DaemonNotRunningError: no daemon serves the ring.
        """
        if self._reader is not None and self._pid == os.getpid():
            return len(self._reader)
        return self.batches_of_workers(1)

    def batches_of_workers(self, workers: int) -> int:
        """Batches that this rank gets in a whole epoch from so many DataLoader workers, at least 1, together.

        An epoch's rounds are those of all workers, so with ``drop_last`` these may be fewer, and else more.

        Raises:
            DaemonNotRunningError: no daemon serves the ring.
        """
        world_size, length = self.ranks.world_size, read_descriptor(self.ring).newest.epoch_length
        rounds, left = divmod(length, world_size * workers * self.batch_size)
        return rounds * workers + (0 if self.drop_last else min(workers, -(-left // world_size)))

    def __iter__(self) -> Iterator[Any]:
        """One epoch. Raises what `ringfeed.attach` and `ringfeed.Reader` raise."""
        worker = get_worker_info()
        if worker is not None:
            return self._iterate_in_worker(worker.id, worker.num_workers)
        self.settle_ranks()
        reader = self.reader
        self.forget_resume()
        return map(self._present, reader)

    @property
    def reader(self) -> Reader:
        """This process's reader; attaches if it has none yet."""
        if self._reader is None or self._pid != os.getpid():
            ranks = self.settle_ranks()
            named = self._given_group is not None or ranks.world_size > 1
            self._reader = self._attach(ranks.rank, ranks.world_size, named=named)
            self._pid = os.getpid()
            self._choose_epoch(self._reader)
        return self._reader

    def close(self) -> None:
        """Detach; the next iteration attaches again, as the rank that this process is then."""
        self._settled = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # Where it stands.

    def state_dict(self) -> dict[str, Any]:
        """Where the group stands, as a small plain dict for a checkpoint; the same on every rank.

        Raises:
            RuntimeError: this process has read nothing; with DataLoader workers, they have, and `RingLoader` knows.
        """
        if self._reader is not None and self._pid == os.getpid():
            return self._reader.state_dict()
        if self._resume is not None and isinstance(self._resume[0], Mapping):
            return dict(self._resume[0])
        raise RuntimeError(
            "This process has read nothing from the ring yet, so there is no state. Where DataLoader workers read, use "
            "ringfeed.torch.RingLoader or torchdata's StatefulDataLoader, and ask the loader for its state."
        )

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go on where a state stands, with whatever number of ranks; the next iteration is the rest of that epoch.

        Raises:
            StateMismatchError: the state is no state; or, where the ring is attached already, of another one. Else
                that is raised by the next iteration.
            AttachRefusedError: other groups have gone beyond it.
        """
        ResumeState.from_dict(state)
        self._epoch = None
        if self._reader is not None and self._pid == os.getpid():
            self._reader.load_state_dict(state, strict=strict)
        else:
            self._resume, self._loaded_by = (dict(state), strict), os.getpid()
            self._went_on = False

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be ``epoch``, as a DistributedSampler does; not needed to count upwards."""
        self._epoch = epoch
        if self._reader is not None and self._pid == os.getpid():
            self._reader.set_epoch(epoch)

    def forget_resume(self) -> None:
        """The loaded state or chosen epoch was one iteration's; later ones go on by themselves."""
        self._resume = self._epoch = None
        self._went_on = False

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration's new readers begin the epoch after the one that ended, or was broken off, in a state.

        It would begin there anyhow, were each of them known to have read of that epoch, and the daemon the same. As
        what goes on, they wait for a daemon that is being restarted, and insist on its order. A state or a place that
        is loaded already, or another epoch that is chosen, stands.
        """
        epoch = following_epoch(state)
        if self._resume is None and self._epoch in (None, epoch):
            self._resume, self._loaded_by = ({**state, "epoch": epoch, "position": 0}, True), os.getpid()
            self._went_on = True

    def _choose_epoch(self, reader: Reader) -> None:
        """Carry out `set_epoch` in a reader that has just attached; a loaded state tells more than its own epoch."""
        if self._epoch is None:
            return
        place = self._resume and self._resume[0]
        if place is None or (place["epoch"] if isinstance(place, Mapping) else place[0]) == self._epoch:
            reader.set_epoch(self._epoch)

    def _attach(self, rank: int, world_size: int, *, named: bool) -> Reader:
        start, strict = self._resume or (self.start, True)
        reader = ringfeed.attach(
            self.ring,
            batch_size=self.batch_size,
            group=self.group if named else None,
            rank=rank,
            world_size=world_size,
            drop_last=self.drop_last,
            start=start,
            strict=strict,
            wait=self.wait,
            on_lag=self.on_lag,
            copy=self.copy,
            wait_s=max(self.wait_s, self.restart_s) if self._went_on else self.wait_s,
            restart_s=self.restart_s,
        )
        try:
            check_nodes(self.ranks, reader.descriptor)
        except BaseException:
            reader.close()
            raise
        return reader

    def _iterate_in_worker(self, worker: int, workers: int) -> Iterator[Any]:
        """One epoch of a sub-rank; attached at once, so that the worker's state is known before its first batch."""
        if self._resume is not None and self._loaded_by != os.getpid() and not self.tells_places:
            raise RuntimeError(
                "This dataset was given a state or a place to start at before a DataLoader started its workers, which "
                "would begin there in every epoch. Use ringfeed.torch.RingLoader, or load the state into torchdata's "
                "StatefulDataLoader."
            )
        if self._reader is not None and self._pid == os.getpid():  # this very worker's last iteration's: it persists
            self._reader.close(keep_place=True)
            self.go_on_from(self._reader.state_dict())
        # Workers count before ranks: then the batches that a loader yields, worker by worker, are the order's own.
        ranks = self.settle_ranks()
        world_size = ranks.world_size
        reader = self._attach(worker * world_size + ranks.rank, world_size * workers, named=True)
        if self._resume is not None or self._epoch is not None:
            self._choose_epoch(reader)
        else:
            # A DataLoader starts new workers for each epoch: they take the old ones' places, at an epoch's start.
            reader.skip_rest_of_epoch()
        self.forget_resume()
        self._reader, self._pid = reader, os.getpid()
        return self._pass_in_worker(reader, range(worker * world_size, (worker + 1) * world_size))

    def _pass_in_worker(self, reader: Reader, turn: range) -> Iterator[Any]:
        try:
            for batch, state in reader.with_states(turn, self.ranks.world_size):
                item = self._present(batch)
                del batch
                yield (item, state) if self.tells_places else item
                del item
        finally:
            reader.close(keep_place=True)

    def _present(self, batch: Batch) -> Any:  # noqa: ANN401  # what transforms return
        if self.fields == _PIXELS and self.transform is None and self.batch_transform is None:
            return self._tensor(batch.image), self._tensor(batch.label)
        values = {name: getattr(batch, name) for name in self.fields}
        if "valid" in values:
            values["valid"] = torch.from_numpy(values["valid"])
        if "positions" in values:
            values["positions"] = torch.from_numpy(values["positions"])
        for name in ("image", "label"):
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
            return [make(array, (2, 0, 1) if array.ndim == 3 else None) for array in pixels]
        return make(pixels, (0, 3, 1, 2) if pixels.ndim == 4 else None)
