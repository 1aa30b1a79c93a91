"""Ringfeed's consumer side: attach to a ring of (image, label) pairs and read it in place. NumPy and posix_ipc only."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from typing import Any

from ringfeed.batch import Batch
from ringfeed.descriptor import read_descriptor
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
    RingfeedError,
    RingHeldError,
    StateMismatchError,
    SupersededError,
)
from ringfeed.lane import Request
from ringfeed.layout import GROUP_BYTES, MAX_UINT64, Start
from ringfeed.reader import Reader
from ringfeed.state import ResumeState
from ringfeed.succession import RESTART_S

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
    "RingHeldError",
    "RingfeedError",
    "StateMismatchError",
    "SupersededError",
    "attach",
]

__version__ = "0.1.0"

_SERIAL = itertools.count()


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
    on_lag: str = "block",
    copy: bool = False,
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
            one of them blocks; what is overwritten before this group has read it is passed over and counted in
            ``batch.missed``, and its batches are copies. For monitors and live evaluators.
        copy: hand out copies that belong to the caller, at one memcpy a batch.
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
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is out of range: with world_size={world_size} it must be 0 to {world_size - 1}")
    if world_size > 1 and group is None:
        raise ValueError(f"world_size={world_size} needs group=NAME, the same name for all of its ranks")
    if on_lag not in ("block", "skip"):
        raise ValueError(f'on_lag is {on_lag!r}; it must be "block" or "skip"')
    name = group if group is not None else f"anonymous-{os.getpid()}-{next(_SERIAL)}"
    if not name or len(name.encode()) > GROUP_BYTES:
        raise ValueError(f"group {name!r} must have 1 to {GROUP_BYTES} bytes in UTF-8")
    deadline = time.monotonic() + wait_s
    while True:
        try:
            kind, at, state = _parse_start(start, ring, strict=strict)
            request = Request(
                group=name,
                rank=rank,
                world_size=world_size,
                batch_size=batch_size,
                drop_last=drop_last,
                start=kind,
                at=at,
                anonymous=group is None,
                pid=os.getpid(),
                wait=wait,
                skips=on_lag == "skip",
            )
            return Reader(ring, request, copy=copy, restart_s=restart_s, state=state)
        except (DaemonNotRunningError, DaemonGoneError, OtherVersionError):  # not there yet, or just now not
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)


def _parse_start(
    start: Any,  # noqa: ANN401  # a user's
    ring: str,
    *,
    strict: bool,
) -> tuple[Start, tuple[int, int], ResumeState | None]:
    if isinstance(start, str) and start in ("auto", "epoch", "now"):
        return Start[start.upper()], (0, 0), None
    if isinstance(start, Mapping):
        state = ResumeState.from_dict(start)
        return Start.AT, state.place(read_descriptor(ring), strict=strict), state if strict else None
    if isinstance(start, tuple) and len(start) == 2 and all(type(x) is int and 0 <= x <= MAX_UINT64 for x in start):
        return Start.AT, start, None
    raise ValueError(f'start is {start!r}; it must be "auto", "epoch", "now", a tuple (epoch, position), or a state')
