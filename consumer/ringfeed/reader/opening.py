"""Opening a reader: what a trainer gives, checked, and made a request to the daemon."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ringfeed.arguments import true_or_false, whole_number
from ringfeed.errors import (
    AttachRefusedError,
    DaemonGoneError,
    DaemonNotRunningError,
    OtherVersionError,
    RingFailedError,
)
from ringfeed.log import TELL_AFTER_S, inform, warn
from ringfeed.reader.reader import Reader
from ringfeed.reader.registry import own_readers_beyond
from ringfeed.reader.state import ResumeState
from ringfeed.shm.descriptor import read_descriptor
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import GROUP_BYTES, MAX_UINT64, Start
from ringfeed.shm.origin import Kin

_SERIAL: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class Following:
    """A start with the epoch after those that the workers of the loader's earlier iterations have read of.

    Attributes:
        epoch: to begin with on an idle ring whose daemon knows of no earlier iteration, e.g. since it was restarted.
    """

    epoch: int = 0


def open_reader(
    ring: str,
    *,
    batch_size: int,
    group: str | None,
    rank: int,
    world_size: int,
    drop_last: bool,
    start: str | tuple[int, int] | Mapping[str, Any] | Following,
    strict: bool,
    wait: bool,
    on_lag: str,
    copy: bool,
    wait_s: float,
    restart_s: float,
    kin: Kin,
) -> Reader:
    """Attach to a ring as `ringfeed.attach` does, which says what the arguments mean.

    Args:
        start: also `Following`, for a DataLoader's workers.
        kin: the processes to which this one belongs.

    Raises:
        ValueError: an argument is out of its range.
        RingfeedError: as `ringfeed.attach`.
    """
    batch_size = whole_number("batch_size", batch_size, least=1)
    rank, world_size = whole_number("rank", rank, least=0), whole_number("world_size", world_size, least=1)
    drop_last = true_or_false("drop_last", drop_last)
    if rank >= world_size:
        raise ValueError(f"rank {rank} is out of range: with world_size={world_size} it must be 0 to {world_size - 1}")
    if world_size > 1 and group is None:
        raise ValueError(f"world_size={world_size} needs group=NAME, the same name for all of its ranks")
    if on_lag not in ("block", "skip", "yield"):
        raise ValueError(f'on_lag is {on_lag!r}; it must be "block", "skip" or "yield"')
    name = group if group is not None else f"anonymous-{os.getpid()}-{next(_SERIAL)}"
    if not name or len(name.encode()) > GROUP_BYTES:
        raise ValueError(f"group {name!r} must have 1 to {GROUP_BYTES} bytes in UTF-8")

    def read() -> Reader:
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
            yields=on_lag == "yield",
            kin=kin,
        )
        own, waits_for_itself = own_readers_beyond(ring, name, at) if kind is Start.AT else ("", False)
        advice = f"This process reads beyond it itself; call close() on the loader, dataset or reader of {own}."
        if wait and waits_for_itself:
            raise AttachRefusedError(
                f"epoch {at[0]}, position {at[1]} lies behind ring {ring!r}, and waiting would not end. {advice}"
            )
        try:
            return Reader(ring, request, copy=copy, restart_s=restart_s, state=state)
        except AttachRefusedError as refused:
            if own:
                raise AttachRefusedError(f"{refused}. {advice}") from None
            raise

    reader = _once_served(read, wait_s)
    if reader.joined_midway:
        tell = warn if start == "auto" and on_lag != "skip" else inform
        tell(
            "%s joined the ring in the middle of an epoch, where others read: its first loop has %d batches. Pass "
            'start="epoch" to begin with a whole epoch.',
            *(repr(reader), len(reader)),
        )
    return reader


def _once_served(read: Callable[[], Reader], wait_s: float) -> Reader:
    began = time.monotonic()
    told = False
    while True:
        try:
            return read()
        except RingFailedError:
            raise  # waiting does not change that
        except (DaemonNotRunningError, DaemonGoneError, OtherVersionError) as absent:  # or just now not there
            waited_s = time.monotonic() - began
            if waited_s >= wait_s:
                raise
            if waited_s > TELL_AFTER_S and not told:
                told = True
                warn("%s This process waits up to %.0f s for one.", str(absent), wait_s)
            time.sleep(0.05)


def _parse_start(
    start: str | tuple[int, int] | Mapping[str, Any] | Following,
    ring: str,
    *,
    strict: bool,
) -> tuple[Start, tuple[int, int], ResumeState | None]:
    if isinstance(start, Following):
        return Start.FOLLOWING, (start.epoch, 0), None
    if isinstance(start, str) and start in ("auto", "epoch", "now"):
        return Start[start.upper()], (0, 0), None
    if isinstance(start, Mapping):
        state = ResumeState.from_dict(start)
        return Start.AT, state.place(read_descriptor(ring), strict=strict), state if strict else None
    if isinstance(start, tuple) and len(start) == 2 and all(type(x) is int and 0 <= x <= MAX_UINT64 for x in start):
        return Start.AT, start, None
    raise ValueError(f'start is {start!r}; it must be "auto", "epoch", "now", a tuple (epoch, position), or a state')
