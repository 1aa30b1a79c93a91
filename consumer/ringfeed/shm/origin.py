"""Kin: which training process, which run of its job and which loop of a loader a consumer belongs to, as numbers.

They tell the daemon who may go on at a place that was left. None of them says whether a process lives: the locks do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Kin:
    """What consumers that belong together have in common; 0 where it is not known.

    Attributes:
        owner: the training process: a DataLoader's workers come and go with each epoch, and have it in common.
        run: the start of the job: its ranks on this machine have it in common, and the same command started again has
            another one.
        loop: the iteration over a DataLoader: the workers that were started for it have it in common.
        workers: of that DataLoader.
    """

    owner: int = 0
    run: int = 0
    loop: int = 0
    workers: int = 0


def rank_words(rank: int, world_size: int, workers: int) -> str:
    """Return a rank as its user knows it: a DataLoader's workers count before the ranks of the job."""
    ranks = world_size // workers if workers and world_size % workers == 0 else world_size
    return (
        f"rank {rank}/{world_size}" if ranks == world_size else f"worker {rank // ranks} of rank {rank % ranks}/{ranks}"
    )


STRANGER: Final = Kin()
"""A process of which nothing is known."""


def number(*parts: object) -> int:
    """Return a number from 1 to 2^63 - 1 that others come to by the same parts only."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 or 1


def process_number(pid: int) -> int:
    """Return the number of a process, which no later process with its id has; 0 where the kernel does not tell."""
    try:
        started = _stat(pid)[19]
    except OSError:
        return 0
    return number("process", pid, started)


def parent_of(pid: int) -> int:
    """Return the process that started another one.

    Raises:
        OSError: it is gone.
    """
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
