"""Which rank of which group this process is, from torch.distributed or from torchrun's environment."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.distributed
import torch.utils.data

from ringfeed.arguments import whole_number
from ringfeed.errors import RingfeedError
from ringfeed.shm.descriptor import Descriptor
from ringfeed.shm.origin import Kin, number, parent_of, process_number
from ringfeed.torch.launchers import count_machines, here, spans_machines

_SERIALS: defaultdict[tuple[str, bool], Iterator[int]] = defaultdict(itertools.count)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank and world size of this process among those that read the ring, which are on this machine.

    Attributes:
        num_nodes: machines of the job, each with a ring of its own; None where nothing tells, so that the user knows.
    """

    rank: int
    world_size: int
    num_nodes: int | None = None


def given_ranks(rank: int | None, world_size: int | None) -> Ranks | None:
    """Return the ranks that a user gave; None where they are to be found out.

    Raises:
        ValueError: only one of the two was given, or the rank is out of its range.
    """
    if (rank is None) != (world_size is None):
        raise ValueError(f"give both rank and world_size, or neither (rank={rank}, world_size={world_size})")
    if rank is None or world_size is None:
        return None
    rank, world_size = whole_number("rank", rank, least=0), whole_number("world_size", world_size, least=1)
    if rank >= world_size:
        raise ValueError(f"rank {rank} is out of range: with world_size={world_size} it must be 0 to {world_size - 1}")
    return Ranks(rank, world_size)


def resolve_ranks(environ: Mapping[str, str] = os.environ) -> Ranks:
    """Return what torch.distributed says at this moment, else the launcher's environment, else one process alone.

    In a job over several machines, the rank and the world size on this machine: a ring is read by the ranks of
    its own machine, and each machine's daemon serves its share of the data.

    Raises:
        ValueError: the machines of the job have unequal numbers of ranks.
        RingfeedError: there are several machines, and the launcher does not tell which ranks are on this one.
    """
    if _initialized():
        found = Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    elif "RANK" in environ and "WORLD_SIZE" in environ:
        found = Ranks(int(environ["RANK"]), int(environ["WORLD_SIZE"]))
    else:
        return Ranks(0, 1)
    told = here(found.rank, found.world_size, environ)
    if told is not None:
        return Ranks(told.local_rank, told.ranks, told.machines)
    gpu_a_rank = _initialized() and torch.distributed.get_backend() == "nccl"
    why = spans_machines(found.world_size, environ, gpu_a_rank=gpu_a_rank)
    if why is not None:
        raise RingfeedError(
            f"This job runs on several machines ({why}), and its launcher does not say which of its {found.world_size} "
            f"ranks run on this one. A ring is read by the ranks of its own machine: set LOCAL_RANK and "
            f"LOCAL_WORLD_SIZE, or give rank and world_size among those on this machine; and start "
            f"{_daemons('M')}, where M is the number of machines."
        )
    return found


def check_nodes(ranks: Ranks, descriptor: Descriptor) -> None:
    """Insist that a ring is shared by as many machines as the job has.

    With fewer, machines would train on the same pairs; with more, pairs would be trained on by none.

    Raises:
        RingfeedError: it is not.
    """
    if ranks.num_nodes is None or ranks.num_nodes == descriptor.identity.num_nodes:
        return
    remedy = (
        "the daemon without --num-nodes"
        if ranks.num_nodes == 1
        else f"{_daemons(ranks.num_nodes)}, with R from 0 to {ranks.num_nodes - 1}"
    )
    raise RingfeedError(
        f"This job runs on {count_machines(ranks.num_nodes)}, and the ring {descriptor.ring!r} is served for "
        f"{count_machines(descriptor.identity.num_nodes)}; restart {remedy}, or give rank and world_size to read it as "
        f"it is."
    )


def _daemons(machines: int | str) -> str:
    return f"each machine's daemon as `ringfeed serve --num-nodes {machines} --node-rank R`"


def ranks_to_tell() -> tuple[int, Ranks] | None:
    """Return what torch.distributed says here, with this process's id, for workers that it starts; else None."""
    return (os.getpid(), resolve_ranks()) if _initialized() else None


def loader_pid() -> int | None:
    """Return the process whose DataLoader has this one as a worker; None in a process that is not a worker."""
    if torch.utils.data.get_worker_info() is None:
        return None
    loader = multiprocessing.parent_process()
    return None if loader is None else loader.pid


def kin(environ: Mapping[str, str] = os.environ) -> Kin:
    """Return to which training process, run of its job and loop of its loader this process belongs."""
    worker = torch.utils.data.get_worker_info()
    return Kin(
        owner=process_number(loader_pid() or os.getpid()),
        run=_run(environ),
        loop=0 if worker is None else number("loop", worker.seed - worker.id),
        workers=0 if worker is None else worker.num_workers,
    )


def _run(environ: Mapping[str, str]) -> int:
    """Return what the ranks of this run have in common, and other runs of the same command have not; 0: unknown."""
    if file := environ.get("TORCHELASTIC_ERROR_FILE"):  # in a folder that torchrun makes for each start of its ranks
        return number("torchrun", str(Path(file).parent.parent))
    launcher = multiprocessing.parent_process() if loader_pid() is None else None
    if launcher is not None and launcher.pid is not None:  # of mp.spawn
        return process_number(launcher.pid)
    if "SLURM_STEP_ID" in environ and "SLURM_JOB_ID" in environ:
        restart = environ.get("SLURM_RESTART_COUNT", "0")
        return number("slurm", environ["SLURM_JOB_ID"], environ["SLURM_STEP_ID"], restart)
    return 0


def check_agreement(ring: str, before: Ranks) -> None:
    """Insist that torch.distributed, where it is initialised, says what a dataset began to read as.

    Raises:
        RingfeedError: it says otherwise, e.g. since it was initialised after the first iteration.
    """
    if _initialized() and (now := resolve_ranks()) != before:
        raise RingfeedError(
            f"This dataset began to read ring {ring!r} as rank {before.rank} of {before.world_size}, and now "
            f"torch.distributed says that this process is rank {now.rank} of {now.world_size}; call "
            f"init_process_group() before the first iteration, or give rank and world_size."
        )


def _initialized() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def next_serial(ring: str, given: Ranks | None) -> str:
    """Number the datasets that a process makes for one ring, so that each gets a pass of its own.

    Those that are given rank 0 of 1 are numbered apart: they may be made by some ranks of a job only.
    """
    alone = given is not None and given.world_size == 1
    return f"{'own' if alone else ''}{next(_SERIALS[ring, alone])}"


def default_group(ranks: Ranks, serial: str, environ: Mapping[str, str] = os.environ) -> str:
    """Name the group of a job's ``serial``-th dataset as all ranks of this job, and no other job here, name it.

    A DataLoader's worker processes name it as the process that made the loader does.
    """
    loader = loader_pid()
    if ranks.world_size == 1:
        return f"dataset-{loader or os.getpid()}-{serial}"
    run = environ.get("TORCHELASTIC_RUN_ID", "none")
    if run != "none":
        job = f"torchrun-{run}"
    elif "MASTER_PORT" in environ:
        job = f"{environ.get('MASTER_ADDR', 'localhost')}:{environ['MASTER_PORT']}"
    else:
        job = f"parent-{parent_of(loader) if loader else os.getppid()}"
    return f"{job[:96]}-{serial}"
