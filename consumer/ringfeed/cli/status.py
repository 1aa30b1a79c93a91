"""What `ringfeed status` collects: all that a ring's words tell, read without a message to the daemon."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, replace

from ringfeed.cli.report import LaneStatus, RingStatus, StoreStatus
from ringfeed.errors import DaemonNotRunningError, NotTrustedError, RingfeedError
from ringfeed.health.evidence import Evidence
from ringfeed.health.stalls import Stall
from ringfeed.health.verdict import judge
from ringfeed.plan import Place
from ringfeed.reader.session import find_stall
from ringfeed.shm.control import Control
from ringfeed.shm.counters import DaemonCounts, Lately, RingCounts, StoreCounts, read
from ringfeed.shm.descriptor import read_descriptor
from ringfeed.shm.failures import FailedPairs, read_failed_pairs
from ringfeed.shm.lane import Request
from ringfeed.shm.layout import REASON_BYTES, RING_BYTES, Lane, RingState, State


def ring_status(ring: str) -> RingStatus:
    """Read the status of one ring.

    Raises:
        DaemonNotRunningError: there is no such ring.
        NotTrustedError: its files are not trusted.
    """
    try:
        control = Control(read_descriptor(ring))
    except FileNotFoundError as error:
        raise DaemonNotRunningError(f"The ring {ring!r} has just stopped; ask again.") from error
    try:
        return _read(control)
    finally:
        control.close()


def _read(control: Control) -> RingStatus:
    descriptor, geometry, word = control.descriptor, control.geometry, control.word
    identity = descriptor.identity
    lives = control.daemon_lives()
    now = time.monotonic_ns()
    floor, published = word(State.FLOOR), control.published
    # The descriptor is written at a change at once, the words a moment later; a jump to another place only moves these.
    base = max(Place(word(State.BASE_SEQ), word(State.BASE_EPOCH), word(State.BASE_POSITION)), descriptor.base)
    try:
        epoch, position = descriptor.epochs.forward((base.epoch, base.position), max(0, floor - base.seq))
    except ValueError as error:
        raise NotTrustedError(control.distrust(f"it says that the ring stands at epoch {base.epoch}")) from error
    height, width = geometry.image.row_shape[:2]
    failed, found = _read_failures(control), find_stall(control)
    status = RingStatus(
        ring=descriptor.ring,
        state=_state_name(word(State.STATE)) if lives else "dead",
        reason=control.reason(),
        refresh=control.refresh_outcome(),
        root=identity.root,
        split=descriptor.split,
        fingerprint=descriptor.catalog(epoch).fingerprint,
        daemon_pid=descriptor.pid,
        uptime_s=(now - word(State.STARTED_NS)) / 1e9,
        heartbeat_age_s=(now - max(word(State.HEARTBEAT_NS), word(State.STARTED_NS))) / 1e9,
        order=identity.order,
        seed=identity.seed,
        fit=identity.fit,
        label_mode=identity.label_mode,
        slots=geometry.slots,
        slot_height=height,
        slot_width=width,
        memory_bytes=geometry.total_bytes,
        mirrored=geometry.mirrored,
        epoch_length=descriptor.catalog(epoch).epoch_length,
        num_nodes=identity.num_nodes,
        node_rank=identity.node_rank,
        epoch=epoch,
        position=position,
        floor=floor,
        published=published,
        head=max(published, word(State.HEAD)),  # the word is written less often
        filled_slots=max(0, published - floor),
        store=_read_store(control, now),
        failures_by_cause=failed.causes,
        lanes=geometry.lanes,
        consumers=[lane for number in range(geometry.lanes) if (lane := _read_lane(control, number, now)) is not None],
        held_up=found.sentence() if found is not None else "",
        identity=identity.settings(),
        **asdict(read(RingCounts, word)) | {"failed_pairs": failed.failed_draws},
        **asdict(read(DaemonCounts, word)),
    )
    status.verdict = judge(_evidence(status, control, now, found))
    return status


def _evidence(status: RingStatus, control: Control, now: int, found: Stall | None) -> Evidence:
    lately = read(Lately, control.word)
    since = lately.late_since_ns
    gone = {"dead": f"its process (pid {status.daemon_pid}) died", "failed": f"it was stopped: {status.reason}"}
    return Evidence(
        gone=gone.get(status.state, "it is stopping" if status.state == "stopping" else status.hangs),
        slots=status.slots,
        filled=status.filled_slots,
        published=status.published,
        failing_s=status.store.failing_s,
        store=status.store.sentence(status.workers),
        late_s=max(0, now - since) / 1e9 if since else 0.0,
        late_id=control.text(State.LATE, State.LATE_LENGTH, REASON_BYTES),
        other=control.text(State.OTHER_RING, State.OTHER_RING_LENGTH, RING_BYTES),
        held_up=status.held_up if found is not None and found.worth_saying else "",
        silent=found is not None and not found.waiting,
        readers=[lane for lane in status.consumers if lane.on_lag != "skip"] or status.consumers,
        ring_counts=status,
        daemon_counts=status,
        store_counts=status.store,
        lately=lately,
    )


def _read_failures(control: Control) -> FailedPairs:
    """Return the ring's failed pairs as `ringfeed errors` shows them; their number alone without the list."""
    ring, generation = control.descriptor.ring, control.descriptor.generation
    draws = read(RingCounts, control.word).failed_pairs
    with contextlib.suppress(RingfeedError, OSError):
        listed = read_failed_pairs(ring)
        if listed is not None and listed.generation == generation:
            return listed
    return replace(FailedPairs.none(ring, generation), failed_draws=draws)


def _read_store(control: Control, now: int) -> StoreStatus:
    word = control.word
    since, next_try = word(State.STORE_FAILING_SINCE_NS), word(State.STORE_NEXT_TRY_NS)
    return StoreStatus(
        **asdict(read(StoreCounts, word)),
        failing_s=max(0, now - since) / 1e9 if since else 0.0,
        next_try_s=max(0, next_try - now) / 1e9,
        limit_per_s=word(State.STORE_LIMIT_MILLI) / 1000,
    )


def _state_name(state: int) -> str:
    try:
        return RingState(state).name.lower()
    except ValueError:
        return f"unknown ({state})"


def _read_lane(control: Control, number: int, now: int) -> LaneStatus | None:
    page = control.lane(number)
    nonce = page[Lane.NONCE]
    if not nonce or page[Lane.ANSWER_NONCE] != nonce or not control.lane_lives(number):
        return None
    request = page.read_request()
    if not isinstance(request, Request):
        return None
    since = page[Lane.WAITING_SINCE_NS]
    waiting_ns = max(0, now - since) if since else 0
    return LaneStatus(
        lane=number,
        pid=request.pid,
        group=request.group,
        rank=request.rank,
        world_size=request.world_size,
        batch_size=request.batch_size,
        batches=page[Lane.BATCHES],
        taken=page[Lane.TAKEN],
        held_pairs=max(0, page[Lane.TAKEN] - page[Lane.RELEASED]),
        waited_s=(page[Lane.WAITED_NS] + waiting_ns) / 1e9,
        waiting_s=waiting_ns / 1e9,
        on_lag=request.on_lag,
        missed_pairs=page[Lane.MISSED_PAIRS],
        waited_lately=page[Lane.WAITED_LATELY_MILLI] / 1000,
        absence=page.read_absence(now),
        run=request.kin.run,
        attached_s=max(0, now - page[Lane.ANSWERED_NS]) / 1e9,
    )
