"""Which rank of which group this process is, from torch.distributed or from torchrun's environment."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.distributed

_SERIALS: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank and world size of this process."""

    rank: int
    world_size: int


def resolve_ranks(rank: int | None, world_size: int | None, environ: Mapping[str, str] = os.environ) -> Ranks:
    """What was given, else what torch.distributed says, else torchrun's environment, else one process alone.

    Raises:
        ValueError: only one of the two was given, or the job spans several machines.
    """
    if (rank is None) != (world_size is None):
        raise ValueError(f"give both rank and world_size, or neither (rank={rank}, world_size={world_size})")
    if rank is not None and world_size is not None:
        return Ranks(rank, world_size)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        found = Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    elif "RANK" in environ and "WORLD_SIZE" in environ:
        found = Ranks(int(environ["RANK"]), int(environ["WORLD_SIZE"]))
    else:
        return Ranks(0, 1)
    here = int(environ.get("LOCAL_WORLD_SIZE", found.world_size))
    if here != found.world_size:
        raise ValueError(
            f"this job has {found.world_size} ranks, {here} of them on this machine, and a ring is read by the "
            f"ranks of its own machine; give rank=int(os.environ['LOCAL_RANK']), "
            f"world_size=int(os.environ['LOCAL_WORLD_SIZE']), and each machine's daemon its own part of the data"
        )
    return found


def default_group(ring: str, ranks: Ranks, environ: Mapping[str, str] = os.environ) -> str:
    """A name that all ranks of this job, and no other job on the machine, come to by themselves.

    The datasets that a process makes for one ring are numbered, so that each gets a pass of its own.
    """
    serial = next(_SERIALS[ring])
    if ranks.world_size == 1:
        return f"dataset-{os.getpid()}-{serial}"
    run = environ.get("TORCHELASTIC_RUN_ID", "none")
    if run != "none":
        job = f"torchrun-{run}"
    elif "MASTER_PORT" in environ:
        job = f"{environ.get('MASTER_ADDR', 'localhost')}:{environ['MASTER_PORT']}"
    else:
        job = f"parent-{os.getppid()}"
    return f"{job[:96]}-{serial}"
