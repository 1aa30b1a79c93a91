"""The dataset: the batches of a ring as tensors, in one process, in DDP ranks, and in a DataLoader's workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from torch.utils.data import IterableDataset, get_worker_info

from ringfeed.arguments import true_or_false, whole_number
from ringfeed.daemon.started import Use
from ringfeed.interactive import by_default
from ringfeed.log import inform
from ringfeed.plan import Plan
from ringfeed.reader.opening import open_reader
from ringfeed.reader.reader import Reader
from ringfeed.reader.reconnect import RESTART_S
from ringfeed.reader.registry import let_make_way_for_workers
from ringfeed.shm.descriptor import read_descriptor
from ringfeed.torch.accelerate import counts_by_itself
from ringfeed.torch.beginning import Beginning
from ringfeed.torch.distributed import Ranks, check_nodes, kin, loader_pid
from ringfeed.torch.first_place import joins_midway_at, state_of_beginning
from ringfeed.torch.items import Items
from ringfeed.torch.lightning import asks_once
from ringfeed.torch.membership import Membership
from ringfeed.torch.resume import ResumePoint
from ringfeed.torch.workers.loading import collates, spawns_workers_of, tell_of_workers
from ringfeed.torch.workers.places import WorkersPlaces, give_up_unreachable
from ringfeed.torch.workers.requests import Requests
from ringfeed.torch.workers.worker_pass import WorkerPass


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
        on_lag: str | None = None,
        copy: bool | None = None,
        channels_last: bool = True,
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
            on_lag: as for `ringfeed.attach`; in an interactive session ``"yield"`` only for a rank that is alone.
            copy: yield plain tensors that may be written into, at one memcpy a batch. By default False, and in an
                interactive session (IPython, Jupyter, a console) True.
            channels_last: False yields contiguous ``(B, 3, H, W)`` images, at one transposition a batch: for what takes
                a tensor's memory for its shape, such as ``torch.distributed.broadcast``, which scrambles a tensor that
                is channels-last on one rank only.

        Raises:
            ValueError: an argument is out of its range.
        """
        super().__init__()
        self.ring = ring
        self.batch_size = whole_number("batch_size", batch_size, least=1)
        self._membership = Membership(ring, group, rank, world_size)
        self.drop_last = true_or_false("drop_last", drop_last)
        self._point = ResumePoint(start)
        self.wait = wait
        self._given_lag = on_lag
        copy, self.on_lag = by_default(copy, on_lag)
        self.fields = tuple(fields)
        self.transform = transform
        self.batch_transform = batch_transform
        self.copy = copy or self.on_lag in ("skip", "yield")
        self.channels_last = channels_last
        self._items()  # checks them
        self.wait_s = wait_s
        self.restart_s = restart_s
        self._reader: Reader | None = None
        self._pid = os.getpid()
        self._attached_there: int | None = None  # the process that sent this dataset here while it was attached
        self._pass: WorkerPass | None = None  # a worker's latest
        self.requests: Requests | None = None  # of the `RingLoader` whose workers are being started, or this is one of
        self._workers_places: WorkersPlaces | None = None
        self.daemon_use: Use | None = None  # lives as long as this dataset and its copies
        tell_of_workers(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become what was pickled or copied."""
        self.__dict__.update(state)
        tell_of_workers(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the reader out, but for where it stood: the process that this is sent to attaches by itself."""
        if spawns_workers_of(self):
            self.hand_over()
        point = self._point.sent(None if self._reader is None else self._reader.state_dict())
        state = {**self.__dict__, "_reader": None, "_pass": None, "_point": point, "_workers_places": None}
        return {**state, "_attached_there": self._attached_in}

    def __repr__(self) -> str:
        membership = repr(self._membership)
        return f"RingDataset({self.ring!r}, batch_size={self.batch_size}{membership and ', '}{membership})"

    @property
    def beginning(self) -> Beginning:
        """Where the next reader begins."""
        return self._point.beginning

    @property
    def _attached_in(self) -> int | None:
        """The process whose reader of this dataset is attached, where this one can tell: itself, or what made it."""
        attached = self._reader is not None and not self._reader.closed
        return self._pid if attached else self._attached_there

    def _items(self) -> Items:
        return Items(self.fields, self.transform, self.batch_transform, self.copy, self.channels_last)

    @property
    def ranks(self) -> Ranks:
        """Rank and world size as this process reads, or would if it began now.

        Raises:
            ValueError: the machines of the job have unequal numbers of ranks.
        """
        return self._membership.ranks

    @property
    def group(self) -> str:
        """The group's name: as given, else one that follows from the ranks."""
        return self._membership.group

    def settle_ranks(self) -> Ranks:
        """Return the ranks that the iteration which begins now reads as; see `Membership.settle`."""
        if self._unread and self._membership.changed:
            self._detach()  # it was attached to be counted, or to be looked at
        return self._membership.settle()

    @property
    def _unread(self) -> bool:
        """Whether this process is attached and has read nothing."""
        reader = self._own_reader
        return reader is not None and not reader.statistics()["batches"]

    def __len__(self) -> int:
        """Batches, not pairs, that this rank gets in its next epoch, without workers; `RingLoader` counts with them.

        For a mean over pairs, count the pairs that were read: in each batch ``len(image)``.

        That is a whole one, save where it joins others in the middle of theirs. Before it has attached, the place where
        it will do so is estimated; a `RingLoader` attaches, to know it.

        Raises:
            DaemonNotRunningError: no daemon serves the ring.
        """
        self._begin_whole_for(sys._getframe(1))  # noqa: SLF001  # nothing else tells who asks
        if (reader := self._own_reader) is not None:
            return len(reader)
        place = joins_midway_at(self.ring, self.beginning, self._shape)
        if place is None:
            return self.batches_of_workers(1)
        plan = Plan(read_descriptor(self.ring).epochs, self.ranks.world_size, 0, self.batch_size, self.drop_last)
        return plan.steps_left(*place)

    def attach_to_count(self) -> None:
        """Attach if only that tells how many batches the first epoch will have, since others are in the midst of it."""
        self._begin_whole_for(sys._getframe(1))  # noqa: SLF001  # nothing else tells who asks
        if self._own_reader is None and joins_midway_at(self.ring, self.beginning, self._shape) is not None:
            _ = self.reader

    def _begin_whole_for(self, caller: FrameType) -> None:
        """Begin with a whole epoch, if that was left to Ringfeed, where the rest of one would shorten all epochs."""
        beginning, reader = self.beginning, self._open_reader()
        if beginning.chosen or beginning.start != "auto" or not asks_once(caller):
            return
        if reader is None:
            midway = joins_midway_at(self.ring, beginning, self._shape) is not None
        else:
            midway = self._unread and reader.joined_midway
        if not midway:
            return
        if reader is not None:
            self._detach()
        beginning.start = "epoch"
        inform(
            "%r begins with the next whole epoch of the ring, which others read: Lightning would cut every epoch to "
            "the rest of this one.",
            self,
        )

    @property
    def _shape(self) -> tuple[int, int, bool]:
        """World size, batch size and drop_last, as states name them."""
        return self.ranks.world_size, self.batch_size, self.drop_last

    def batches_of_workers(self, workers: int) -> int:
        """Batches that this rank gets in a whole epoch from so many DataLoader workers, at least 1, together.

        An epoch's rounds are those of all workers, so with ``drop_last`` these may be fewer, and else more.

        Raises:
            DaemonNotRunningError: no daemon serves the ring.
        """
        world_size, length = self.ranks.world_size, read_descriptor(self.ring).newest.epoch_length
        rounds, left = divmod(length, world_size * workers * self.batch_size)
        return rounds * workers + (0 if self.drop_last else min(workers, -(-left // world_size)))

    def __getitem__(self, index: object) -> NoReturn:
        """Refuse to be indexed or split.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "A RingDataset has no items by number (dataset[0], Subset, random_split, a sampler): the daemon orders the "
            "pairs, and each iteration yields the batches of one epoch. Iterate over it, e.g. next(iter(dataset)). To "
            'hold pairs out, read the test ring: `ringfeed serve --test-ratio 0.1` and RingDataset("test", ...), or '
            "get_async_dataloaders(..., test_ratio=0.1)."
        )

    def __iter__(self) -> Iterator[Any]:
        """One epoch.

        Raises:
            ValueError: a DataLoader would make batches of batches.
            RingfeedError: what `ringfeed.attach` and `ringfeed.Reader` raise.
        """
        if collates(sys._getframe(1)):  # noqa: SLF001  # nothing else tells
            raise ValueError(
                "This DataLoader would make batches of the ring's batches. Pass DataLoader(dataset, batch_size=None): "
                "RingDataset(..., batch_size=...) says how many pairs are in one."
            )
        worker = get_worker_info()
        if worker is not None:
            return self._iterate_in_worker(worker.id, worker.num_workers)
        self.settle_ranks()
        reader = self.reader
        self.beginning.forget()
        return map(self._items().of, reader)

    @property
    def reader(self) -> Reader:
        """This process's reader; attaches if it has none yet."""
        reader = self._open_reader()
        if reader is None:
            give_up_unreachable()
            ranks = self.settle_ranks()
            reader = self._reader = self._attach(ranks.rank, ranks.world_size, named=self._membership.named)
            self._pid = os.getpid()
            self._point.attached()
            self._choose_epoch(reader)
        return reader

    @property
    def _own_reader(self) -> Reader | None:
        """This process's reader, also a closed one; None where another process attached."""
        return self._reader if self._pid == os.getpid() else None

    def _open_reader(self) -> Reader | None:
        """Return this process's reader; None where it was closed, maybe by another one that had to wait for it."""
        reader = self._own_reader
        return None if reader is None or reader.closed else reader

    def close(self) -> None:
        """Detach; the next iteration attaches again, as the rank that this process is then.

        The places of a DataLoader's workers, which are kept for those of its next iteration, are given up.
        """
        self._detach()
        if self._workers_places is not None:
            self._workers_places.give_up()
            self._workers_places = None

    def _detach(self) -> None:
        self._membership.unsettle()
        if (reader := self._own_reader) is not None:
            self._point.detached(reader.state_dict())
            reader.close()
        self._reader = None

    def hand_over(self) -> None:
        """Do not hold up the workers of a DataLoader that are being started; a `RingLoader` has seen to that."""
        if self.requests is None:
            self._point.left_to_workers()
            if self._open_reader() is not None:
                self._detach()
        give_up_unreachable()
        let_make_way_for_workers(self.ring, self.group)
        if self._workers_places is None:
            self._workers_places = WorkersPlaces(self.ring, self.group)
            self._workers_places.give_up_with(self)

    def leave_to_workers(self) -> None:
        """Detach, so that a loader's workers can read in this process's place: its next epoch, if it has read."""
        if (reader := self._own_reader) is not None:
            has_read, looked_at = reader.statistics()["batches"] > 0, reader.looked_at()
            self._detach()
            self._point.go_on_in_workers(has_read=has_read, looked_at=looked_at)

    # Where it stands.

    def state_dict(self) -> dict[str, Any]:
        """Return where the group stands, as a small plain dict for a checkpoint; the same on every rank.

        It can be asked for at any time. What has not read yet is where it will begin, which on a ring that others read
        is where they are; what was closed is where it stood; a forked child is where its parent was at the fork. What
        takes batches ahead of your loop (a prefetcher, Accelerate's own loaders) is ahead here as well.

        Raises:
            RuntimeError: workers of a DataLoader have read; `RingLoader` knows where they stand.
            DaemonNotRunningError: nothing was read yet, and no daemon serves the ring.
        """
        reader, point = self._reader, self._point
        if reader is not None and point.tells(reader_is_closed=reader.closed):
            return point.of_reader(reader.state_dict())
        if (stood := point.without_reader()) is not None:
            return stood
        return state_of_beginning(self.ring, self.beginning, self._shape)

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Go on where a state stands, with whatever number of ranks; the next iteration is the rest of that epoch.

        Raises:
            StateMismatchError: the state is not a state; or, where the ring is attached already, of another one. Else
                that is raised by the next iteration.
            AttachRefusedError: other groups have gone beyond it.
        """
        loaded = self._point.load(state, strict=strict)
        if (reader := self._open_reader()) is not None:
            reader.load_state_dict(loaded, strict=strict)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be ``epoch``, as a DistributedSampler does; not needed to count upwards.

        Raises:
            ValueError: it is not a whole number from 0 on.
            RingfeedError: Accelerate calls it, to share out what is this rank's share already.
        """
        if counts_by_itself(sys._getframe(1)):  # noqa: SLF001  # nothing else tells who iterates
            return
        epoch = self._point.choose_epoch(epoch)
        if (reader := self._open_reader()) is not None:
            reader.set_epoch(epoch)

    def _choose_epoch(self, reader: Reader) -> None:
        """Carry out `set_epoch` in a reader that has just attached."""
        if (epoch := self.beginning.epoch) is not None:
            reader.set_epoch(epoch)

    def _attach(self, rank: int, world_size: int, *, named: bool) -> Reader:
        beginning = self.beginning
        alone = self.ranks.world_size == 1
        reader = open_reader(
            self.ring,
            batch_size=self.batch_size,
            group=self.group if named else None,
            rank=rank,
            world_size=world_size,
            drop_last=self.drop_last,
            start=beginning.of_reader(in_worker=get_worker_info() is not None),
            strict=beginning.strict,
            wait=self.wait,
            on_lag=self.on_lag if alone else self._given_lag or "block",
            copy=self.copy,
            wait_s=max(self.wait_s, self.restart_s) if beginning.goes_on else self.wait_s,
            restart_s=self.restart_s,
            kin=kin(),
        )
        try:
            check_nodes(self.ranks, reader.descriptor)
        except BaseException:
            reader.close()
            raise
        return reader

    def _iterate_in_worker(self, worker: int, workers: int) -> Iterator[Any]:
        """One epoch of a sub-rank; attached at once, so that the worker's state is known before its first batch."""
        if self._attached_in == loader_pid():
            raise RuntimeError(
                "This dataset was read in the main process, which is attached still and would hold up its own workers. "
                "Call dataset.close() before the DataLoader starts its workers, or use ringfeed.torch.RingLoader, "
                "which does so."
            )
        if self.requests is None:
            self.beginning.check_is_of_this_process()
        if self._pass is not None and self._pid == os.getpid():  # this very worker's last iteration: it persists
            self.beginning.go_on_from(self._pass.leave_at())
        # Workers count before ranks: then the batches that a loader yields, worker by worker, are the order's own.
        ranks = self.settle_ranks()
        world_size = ranks.world_size
        reader = self._attach(worker * world_size + ranks.rank, world_size * workers, named=True)
        self._pass = WorkerPass(reader, None if self.requests is None else self.requests.latest())
        self._choose_epoch(reader)
        self.beginning.forget()
        self._reader, self._pid = reader, os.getpid()
        if self._point.begin_pass(reader.epoch):
            self._pass.leave()
            return iter(())
        return self._pass.items(self._items(), range(worker * world_size, (worker + 1) * world_size), world_size)
