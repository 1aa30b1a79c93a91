"""The soak's invariants: what was found, and whether it holds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from audit import Verdict
from audit_catalogs import CatalogsRead
from soak_usage import Growth, Shared, Usage

BOUND_S = 45.0
"""After the last fault every rank has its next batch within this: the starts of processes included, and the wait until
a store that was away is asked again, or a download that failed."""

MOST_GROWTH = {"daemon": Usage(20, 3, 16.0), "worker": Usage(32, 8, 32.0), "trainer": Usage(8, 2, 16.0)}
"""By kind of process. A worker may have all its downloads under way at the one look, and none at the other; so may a
daemon that lists the bucket again, with an event loop of its own for it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The ring at the start of the faults and after the last; and the most generations that a trainer has mapped."""

    before: Shared
    after: Shared
    generations: int


@dataclass(frozen=True, slots=True)
class Invariant:
    """One of the promises."""

    name: str
    found: str
    holds: bool


def invariants(
    verdicts: Mapping[str, Verdict], growth: Growth, ending: Ending | None, *, longest_s: float, left: Sequence[str]
) -> list[Invariant]:
    """All of them.

    Args:
        verdicts: by job.
        ending: None when the run did not come to its end.
        left: what lies in /dev/shm when all is over.
    """
    rows = [row for group, verdict in verdicts.items() for row in _job(group, verdict)]
    rows.append(_bound(longest_s))
    rows += [_flat(kind, growth.most(kind), growth.lives(kind)) for kind in MOST_GROWTH]
    if ending is not None:
        rows += _ending(ending)
    return [*rows, Invariant("nothing is left in /dev/shm", few(left), not left)]


def _bound(longest_s: float) -> Invariant:
    found = f"{longest_s:.1f} s at most of {BOUND_S:.0f}"
    return Invariant("everybody goes on after the last fault", found, longest_s <= BOUND_S)


def _job(group: str, verdict: Verdict) -> list[Invariant]:
    found = f"{verdict.delivered} pairs, {verdict.rolled_back} rolled back"
    order = verdict.wrong_pair + verdict.out_of_order
    return [
        Invariant(f"job {group}: no pair lost", f"{found}; {few(verdict.lost)}", not verdict.lost),
        Invariant(f"job {group}: no pair twice", few(verdict.repeated), not verdict.repeated),
        Invariant(f"job {group}: every pair under its id, in order", few(order), not order),
        Invariant(f"job {group}: every pixel", few(verdict.wrong_pixels), not verdict.wrong_pixels),
    ]


def _flat(kind: str, grown: Usage, lives: int) -> Invariant:
    limit = MOST_GROWTH[kind]
    holds = grown.fds <= limit.fds and grown.threads <= limit.threads and grown.memory_mib <= limit.memory_mib
    found = f"{grown.fds:+} fds, {grown.threads:+} threads, {grown.memory_mib:+.1f} MiB at most in {lives} lives"
    return Invariant(f"a {kind} does not grow", found, holds and lives > 0)


def _ending(ending: Ending) -> list[Invariant]:
    before, after = ending.before, ending.after
    size = f"{before.size_bytes / 2**20:.1f} and {after.size_bytes / 2**20:.1f} MiB"
    shm = f"{before.semaphores} and {after.semaphores} semaphores, {before.files} and {after.files} files, {size}"
    one = ending.generations == 1
    return [
        Invariant("/dev/shm holds the same as before", shm, before == after),
        Invariant("trainers let go of former generations", f"{ending.generations} mapped at most", one),
    ]


def catalogs(found: Sequence[CatalogsRead]) -> list[Invariant]:
    """Of a bucket that grew.

    Args:
        found: what the logs tell, by term; at least one.
    """
    wrongs = [wrong for each in found for wrong in each.wrongs]
    last, read = found[-1], {number for each in found for number in each.by_epoch.values()}
    newest, epoch = len(last.catalogs) - 1, max(last.by_epoch, default=0)
    came = f"the last epoch has {len(last.catalogs[last.by_epoch.get(epoch, 0)])} pairs of {len(last.catalogs[newest])}"
    return [
        Invariant(
            "each epoch is of one catalog, none of a former one",
            f"{len(read)} catalogs read of {newest + 1}; {few(wrongs)}",
            not wrongs,
        ),
        Invariant("what was added came in", came, last.by_epoch.get(epoch) == newest),
    ]


def few(wrongs: Sequence[str]) -> str:
    """How many, and the first of them."""
    return f"{len(wrongs)}: {'; '.join(wrongs[:3])}" if wrongs else "none wrong"
