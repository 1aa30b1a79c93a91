"""Which rank of which group this process is, from torch.distributed or from torchrun's environment."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch.distributed

from ringfeed.descriptor import Descriptor
from ringfeed.errors import RingfeedError

_SERIALS: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank and world size of this process among those that read the ring, which are on this machine.

    Attributes:
        num_nodes: machines of the job, each with a ring of its own; None where nothing tells, so that the user knows.
    """

    rank: int
    world_size: int
    num_nodes: int | None = None


def resolve_ranks(rank: int | None, world_size: int | None, environ: Mapping[str, str] = os.environ) -> Ranks:
    """What was given, else what torch.distributed says, else torchrun's environment, else one process alone.

    In a torchrun job over several machines, the rank and the world size on this machine: a ring is read by the ranks of
    its own machine, and each machine's daemon serves its share of the data.

    Raises:
        ValueError: only one of the two was given, or the machines of the job have unequal numbers of ranks.
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
    if "LOCAL_WORLD_SIZE" not in environ or "LOCAL_RANK" not in environ:
        return found
    here = int(environ["LOCAL_WORLD_SIZE"])
    num_nodes = int(environ.get("GROUP_WORLD_SIZE", found.world_size // here))
    if num_nodes * here != found.world_size:
        raise ValueError(
            f"this job has {found.world_size} ranks on {_machines(num_nodes)}, {here} of them on this one; every "
            f"machine gets an equal share of the data, so start as many ranks on each (torchrun --nproc-per-node), "
            f"or give rank and world_size"
        )
    return Ranks(int(environ["LOCAL_RANK"]), here, num_nodes)


def check_nodes(ranks: Ranks, descriptor: Descriptor) -> None:
    """Insist that a ring is shared by as many machines as the job has.

    With fewer, machines would train on the same pairs; with more, pairs would be trained on by none.

    Raises:
        RingfeedError: it is not.
    """
    if ranks.num_nodes is None or ranks.num_nodes == descriptor.num_nodes:
        return
    remedy = (
        "the daemon without --num-nodes"
        if ranks.num_nodes == 1
        else f"each machine's daemon as `ringfeed serve --num-nodes {ranks.num_nodes} --node-rank R`, with R from 0 to "
        f"{ranks.num_nodes - 1}"
    )
    raise RingfeedError(
        f"This job runs on {_machines(ranks.num_nodes)}, and the ring {descriptor.ring!r} is served for "
        f"{_machines(descriptor.num_nodes)}; restart {remedy}, or give rank and world_size to read it as it is."
    )


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count} machines"


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
