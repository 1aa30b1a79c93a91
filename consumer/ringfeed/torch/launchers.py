"""What launchers tell of the ranks on this machine, and how a job on several machines is known where none tells."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

_GPUS: Final = Path("/proc/driver/nvidia/gpus")

RANKS_A_CORE: Final = 8
"""No machine is given more ranks for each of its cores, with at least two cores."""


class Here(NamedTuple):
    """A rank on its machine: its number there, how many ranks are there, and how many machines the job has."""

    local_rank: int
    ranks: int
    machines: int


class _Words(NamedTuple):
    """Variables of one launcher. Rank and world size show whether it speaks of this job."""

    rank: str
    world_size: str
    local_rank: str
    local_size: str


_LAUNCHERS: Final = (
    _Words("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    _Words("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    _Words("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)


def here(rank: int, world_size: int, environ: Mapping[str, str]) -> Here | None:
    """Return what the launcher tells of the machine; None where it tells nothing.

    Raises:
        ValueError: the machines of the job have unequal numbers of ranks.
    """
    if "LOCAL_RANK" in environ and "LOCAL_WORLD_SIZE" in environ:
        ranks = int(environ["LOCAL_WORLD_SIZE"])
        machines = int(environ.get("GROUP_WORLD_SIZE", world_size // ranks))
        return _equal(int(environ["LOCAL_RANK"]), ranks, machines, world_size)
    for words in _LAUNCHERS:
        numbers = [_number(environ, name) for name in words]
        if numbers[:2] == [rank, world_size] and numbers[2] is not None and numbers[3]:
            return _equal(numbers[2], numbers[3], world_size // numbers[3], world_size)
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS") or _number(environ, "SLURM_NTASKS")
    machines_told = _number(environ, "SLURM_STEP_NUM_NODES") or _number(environ, "SLURM_NNODES")
    local_rank = _number(environ, "SLURM_LOCALID")
    if (_number(environ, "SLURM_PROCID"), tasks) == (rank, world_size) and machines_told and local_rank is not None:
        shares = _slurm_shares(environ.get("SLURM_STEP_TASKS_PER_NODE", environ.get("SLURM_TASKS_PER_NODE", "")))
        node = _number(environ, "SLURM_NODEID") or 0
        ranks = shares[node] if node < len(shares) else world_size // machines_told
        return _equal(local_rank, ranks, machines_told, world_size)
    return None


def spans_machines(world_size: int, environ: Mapping[str, str], *, gpu_a_rank: bool) -> str | None:
    """Return why a job of which the launcher tells nothing more must be on several machines; None where it need not be.

    Args:
        gpu_a_rank: each rank has a GPU of its own.
    """
    address = environ.get("MASTER_ADDR", "")
    if world_size > 1 and address and not _is_here(address):
        return f"MASTER_ADDR={address} is another one"
    gpus = len(list(_GPUS.iterdir())) if gpu_a_rank and _GPUS.is_dir() else 0
    if gpus and world_size > gpus:
        return f"it has {world_size} ranks, and this one has {gpus} GPUs"
    cores = max(2, os.cpu_count() or 2)
    if world_size > RANKS_A_CORE * cores:
        return f"it has {world_size} ranks, and this one has {cores} cores"
    return None


def _equal(local_rank: int, ranks: int, machines: int, world_size: int) -> Here:
    if machines * ranks != world_size:
        raise ValueError(
            f"this job has {world_size} ranks on {count_machines(machines)}, {ranks} of them on this one; every "
            f"machine gets an equal share of the data, so start as many ranks on each (torchrun --nproc-per-node), "
            f"or give rank and world_size"
        )
    return Here(local_rank, ranks, machines)


def count_machines(count: int) -> str:
    """Return a number of machines in words."""
    return "1 machine" if count == 1 else f"{count} machines"


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


def _slurm_shares(text: str) -> list[int]:
    """Return the tasks on each node of SLURM's "2(x3),1"."""
    shares: list[int] = []
    for part in text.split(","):
        if (match := re.fullmatch(r"([0-9]{1,6})(?:\(x([0-9]{1,6})\))?", part)) is not None:
            shares += [int(match[1])] * int(match[2] or 1)
    return shares


def _is_here(address: str) -> bool:
    """Return whether an address is this machine's, or cannot be resolved: only its own can a socket be bound to."""
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return True
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(where)
                return True
        except OSError:
            continue
    return False
