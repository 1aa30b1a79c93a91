"""Ringfeed's consumer side: attach to a ring of (image, label) pairs and read it in place. NumPy and posix_ipc only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ringfeed.errors import (
    AttachRefusedError,
    DaemonGoneError,
    DaemonNotRunningError,
    InPlaceWriteError,
    NoAccessError,
    NotTrustedError,
    OtherVersionError,
    ReaderClosedError,
    ReleasedError,
    RingFailedError,
    RingfeedError,
    RingHeldError,
    StateMismatchError,
    SupersededError,
)
from ringfeed.interactive import by_default
from ringfeed.reader.batch import Batch
from ringfeed.reader.opening import open_reader
from ringfeed.reader.reader import Reader
from ringfeed.reader.reconnect import RESTART_S
from ringfeed.shm.origin import Kin, process_number

__all__ = [
    "AttachRefusedError",
    "Batch",
    "DaemonGoneError",
    "DaemonNotRunningError",
    "InPlaceWriteError",
    "NoAccessError",
    "NotTrustedError",
    "OtherVersionError",
    "Reader",
    "ReaderClosedError",
    "ReleasedError",
    "RingFailedError",
    "RingHeldError",
    "RingfeedError",
    "StateMismatchError",
    "SupersededError",
    "attach",
]

__version__ = "0.1.0"


def attach(
    ring: str = "train",
    *,
    batch_size: int,
    group: str | None = None,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = True,
    start: str | tuple[int, int] | Mapping[str, Any] = "auto",
    strict: bool = True,
    wait: bool = False,
    on_lag: str | None = None,
    copy: bool | None = None,
    wait_s: float = 0.0,
    restart_s: float = RESTART_S,
) -> Reader:
    """Attach to a ring on this machine.

    Args:
        ring: the ring's name, ``"train"`` or ``"test"`` unless the daemon was given another.
        batch_size: pairs in a batch of this rank.
        group: the readers that share one pass over the stream, each with a rank of its own; every group sees every
            pair. By default a group of this reader's own; more than one rank need a name in common.
        rank, world_size: which share of the group's pass is this reader's.
        drop_last: drop what is left of an epoch below ``world_size * batch_size`` pairs; else spread it over the
            ranks.
        start: ``"auto"``: the first pair of epoch 0 on an idle ring, ``"now"`` on one that others read; ``"epoch"``:
            the next whole epoch; ``"now"``: what is in the ring; or an (epoch, position); or what `Reader.state_dict`
            returned, with whatever number of ranks.
        strict: refuse a state of another catalog, seed or order; else go on at the same epoch and position anyhow.
        wait: where other groups have gone beyond the place that is asked for, wait until they have left.
        on_lag: ``"block"``: the others wait for this reader, and nothing is lost. ``"skip"``: they never do, as long as
            one of them blocks, and else as with ``"yield"``; what is overwritten before this group has read it is
            passed over and counted in ``batch.missed``, and its batches are copies. For monitors and live evaluators.
            ``"yield"``: as ``"block"``, but once others have waited some seconds for this reader (the daemon's
            ``linger_blocking_s``), they go on without it. Its next batch is then the oldest one that is kept, and the
            others wait for it again. By default ``"block"``, and in an interactive session ``"yield"``.
        copy: return copies that belong to the caller, at one memcpy a batch. By default False, and in an interactive
            session (IPython, Jupyter, a console) True.
        wait_s: how many seconds to wait for a daemon that is not there yet.
        restart_s: how many seconds to wait for a new daemon when this one stops or dies; the reader goes on at exactly
            the next pair.

    Raises:
        ValueError: an argument is out of its range.
        DaemonNotRunningError: no daemon serves the ring.
        AttachRefusedError: the daemon refuses, e.g. because the batch is larger than the ring or the rank is taken.
        StateMismatchError: the state is not of this ring.
        NotTrustedError: the ring's files belong to others.
        OtherVersionError: the ring's daemon has another layout version; see docs/upgrade.md.
    """
    copy, on_lag = by_default(copy, on_lag, alone=world_size == 1)
    return open_reader(
        ring,
        batch_size=batch_size,
        group=group,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
        start=start,
        strict=strict,
        wait=wait,
        on_lag=on_lag,
        copy=copy,
        wait_s=wait_s,
        restart_s=restart_s,
        kin=Kin(owner=process_number(os.getpid())),
    )
