"""``scripts/soak``: two jobs read from a real daemon over a real server while all of them are killed, for minutes.

Every fault is chosen by the seed. After each, everybody has to get on within `BOUND_S`; at the end each job's log must
be, position by position, that of a job to which nothing happened.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from audit import Undisturbed, Verdict, judge, reference_digests
from audited_job import Job, RefusedError
from house import photographs, traces, wipe
from soak_faults import Served, usage

from ringfeed.errors import RingfeedError
from ringfeed.status import ring_status
from ringfeedd.demo.interrupts import Interrupts
from ringfeedd.fakegcs import FakeGcs, Fault, serve_in_thread

PAIRS = 131
HEIGHT, WIDTH = 48, 64
SLOTS = 96
LINGER_BLOCKING_S = 1.0
STEP_S = 0.02
"""What a training step takes: some batches are in hand at each kill, and the ring is full now and then."""

BOUND_S = 30.0
"""After a fault every rank has its next batch within this, the starts of processes included."""

MOST_FD_GROWTH = 8
MOST_MEMORY_GROWTH_MIB = 16.0
MOST_TRAINER_FDS = 64

FAULTS = [
    Fault("latency", delay_s=0.003),
    Fault("status", 0.01),
    Fault("reset", 0.01),
]
KINDS = {"kill a job": 6, "kill the daemon": 4, "restart the daemon": 2, "kill a worker": 3, "kill daemon and job": 2}
"""How often each is chosen, relatively."""


class BoundError(Exception):
    """Somebody waited too long."""


class Soak:
    """One run: the jobs, the daemon, and what was done to them."""

    def __init__(self, folder: Path, url: str, seed: int) -> None:
        self.ring = f"soak{os.getpid()}"
        shape = ["--emulator", url, "--size", f"{HEIGHT}x{WIDTH}", "--label-mode", "index", "--slots", str(SLOTS)]
        linger = ["--workers", "2", "--linger-blocking-s", str(LINGER_BLOCKING_S)]
        self.served = Served(("gs://b/set", [*shape, *linger]), self.ring)
        self.jobs = [Job(f"{self.ring}-train", group, folder) for group in "AB"]
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.longest_s = 0.0
        self.trainer_fds = 0
        self._random = random.Random(seed)
        self._began = time.monotonic()

    def say(self, sentence: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {sentence}", flush=True)

    def run(self, minutes: float) -> None:
        """Do it.

        Raises:
            BoundError: somebody waited too long.
        """
        self.served.start()
        self.served.wait_ready()
        self._restart_jobs()
        self._recover()
        self._began = time.monotonic()
        while time.monotonic() - self._began < 60 * minutes:
            self._go_on(self._random.uniform(0.2, 2.0))
            (kind,) = self._random.choices(list(KINDS), weights=list(KINDS.values()))
            self._do(kind)
            self._recover()
        self._end(minutes)

    def _do(self, kind: str) -> None:
        self.done[kind] += 1
        job = self._random.choice(self.jobs)
        if kind == "kill a worker":
            self.say("kill -9 of a worker process")
            self.served.kill_worker(self._random.choice)
            return
        if kind == "restart the daemon":
            self.say("clean restart of the daemon")
            code = self.served.stop()
            assert code == 0, f"the daemon ended with {code}"
            assert not traces(self.ring), f"a clean stop left {traces(self.ring)}"
        if "daemon" in kind and kind.startswith("kill"):
            self.say("kill -9 of the daemon")
            self.served.kill()
        if "daemon" in kind:
            self.served.start()
        if "job" in kind:
            self._kill(job)
            self._start(job)
        if "daemon" in kind:
            self.served.wait_ready()

    def _kill(self, job: Job) -> None:
        ranks = self._random.sample(range(job.run.world_size), job.run.world_size)
        job.kill(ranks, gap_s=self._random.choice((0.0, 0.05)))
        self.say(f"kill -9 of job {job.group} (ranks {ranks}); all had logged up to {job.run.end}")

    def _start(self, job: Job) -> None:
        world_size, batch_size = self._random.choice((1, 2, 3)), self._random.choice((8, 12))
        job.start(world_size, batch_size, step_s=STEP_S)
        self.say(f"job {job.group} goes on from {job.run.begin} with {world_size} ranks, batch size {batch_size}")
        job.order(f"until {sys.maxsize}")

    def _go_on(self, seconds: float) -> None:
        """Let everybody read for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._poll()
            time.sleep(0.02)
        for pid in (pid for job in self.jobs for pid in job.pids):
            if (held := usage(pid)) is not None:
                self.trainer_fds = max(self.trainer_fds, held.fds)

    def _poll(self) -> None:
        self.served.look()
        try:
            for job in self.jobs:
                job.poll()
        except RefusedError as error:
            self._note_refusal(str(error))
            self._restart_jobs()

    def _note_refusal(self, said: str) -> None:
        sentence = said.splitlines()[-1]
        kind = "behind the ring" if "lies behind" in sentence else sentence
        self.refused[kind] += 1
        self.say(f"refused: {sentence}")

    def _restart_jobs(self) -> None:
        """All jobs from their logs, the earliest first: the ring begins at its place and is behind nobody's."""
        for job in self.jobs:
            if job.runs:
                self._kill(job)
        deadline = time.monotonic() + BOUND_S
        for job in sorted(self.jobs, key=lambda job: job.run.end if job.runs else (0, 0)):
            job.start(*(self._random.choice(sizes) for sizes in ((1, 2, 3), (8, 12))), step_s=STEP_S)
            self.say(f"job {job.group} starts at {job.run.begin}")
            job.wait_attached(max(0.1, deadline - time.monotonic()))
        for job in self.jobs:
            job.order(f"until {sys.maxsize}")

    def _recover(self) -> None:
        """Wait until every rank reads from the daemon that serves now, and has taken a batch more."""
        began = time.monotonic()
        before = {id(job.run): [len(entries) for entries in job.run.ranks] for job in self.jobs}
        while not (self._all_attached() and self._all_went_on(before)):
            waited = time.monotonic() - began
            if waited > BOUND_S:
                raise BoundError(f"after {waited:.0f} s somebody has not gone on: {self.jobs}")
            self._poll()
            time.sleep(0.02)
        self.longest_s = max(self.longest_s, time.monotonic() - began)

    def _all_attached(self) -> bool:
        pids = {pid for job in self.jobs for pid in job.pids}
        try:
            return {lane.pid for lane in ring_status(f"{self.ring}-train").consumers} == pids
        except (RingfeedError, OSError):
            return False

    def _all_went_on(self, before: dict[int, list[int]]) -> bool:
        return all(
            len(entries) > count
            for job in self.jobs
            for entries, count in zip(job.run.ranks, before.get(id(job.run), [0] * job.run.world_size), strict=True)
        )

    def _end(self, minutes: float) -> None:
        """Every job reads to the end of an epoch that none has begun, and leaves."""
        self.say("nothing is done for a while, to see whether the daemon grows")
        self._go_on(max(6.0, 6 * minutes))
        last = 1 + max(entry.place[0] for job in self.jobs for entries in job.run.ranks for entry in entries[-1:])
        self.say(f"the jobs read on to epoch {last} and end")
        for job in self.jobs:
            job.order(f"until {last}")
        for job in self.jobs:
            job.finish()
            assert job.run.end == (last, 0), f"{job!r} did not end at epoch {last}"
        code = self.served.stop()
        assert code == 0, f"the daemon ended with {code}"

    def clean_up(self) -> None:
        """Stop every child, whatever happened."""
        for job in self.jobs:
            if job.runs:
                job.kill()
        daemon = getattr(self.served, "daemon", None)
        if daemon is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()

    def table(self, verdicts: dict[str, Verdict], left: list[str]) -> list[tuple[str, str, bool]]:
        """The invariants: name, what was found, whether it holds."""
        rows = []
        for job in self.jobs:
            if (verdict := verdicts.get(job.group)) is None:
                continue
            group, runs = job.group, len(job.runs)
            found = f"{verdict.delivered} pairs in {runs} runs, {verdict.rolled_back} rolled back"
            rows += [
                (f"job {group}: no pair lost", f"{found}; {_few(verdict.lost)}", not verdict.lost),
                (f"job {group}: no pair twice", _few(verdict.repeated), not verdict.repeated),
                (f"job {group}: the undisturbed order", *_none(verdict.wrong_pair + verdict.out_of_order)),
                (f"job {group}: every pixel", *_none(verdict.wrong_pixels)),
            ]
        growth = self.served.growth
        fds = max((grown.fds for grown in growth), default=0)
        memory = max((grown.memory_mib for grown in growth), default=0.0)
        return [
            *rows,
            ("everybody goes on after a fault", f"{self.longest_s:.1f} s at most of {BOUND_S:.0f}", True),
            ("nothing left in /dev/shm", _few(left), not left),
            (
                "the daemon's fds are flat",
                f"{fds:+} at most in {len(growth)} lives",
                bool(growth) and fds <= MOST_FD_GROWTH,
            ),
            ("its memory is flat", f"{memory:+.1f} MiB at most", memory <= MOST_MEMORY_GROWTH_MIB),
            ("a trainer's fds are bounded", f"{self.trainer_fds} at most", self.trainer_fds <= MOST_TRAINER_FDS),
        ]


def _few(wrongs: list[str]) -> str:
    return f"{len(wrongs)}: {'; '.join(wrongs[:3])}" if wrongs else "none"


def _none(wrongs: list[str]) -> tuple[str, bool]:
    return _few(wrongs) if wrongs else "as it must be", not wrongs


def soak(minutes: float, seed: int, folder: Path) -> int:
    """Run it and print what came of it; 0 when all invariants hold."""
    objects = photographs(PAIRS)
    pixels = reference_digests(objects, "set/", HEIGHT, WIDTH)
    trouble = None
    with serve_in_thread(FakeGcs({"b": objects}, FAULTS, seed=seed)) as server:
        it = Soak(folder, server.url, seed)
        try:
            it.run(minutes)
        except (BoundError, AssertionError) as error:
            trouble = f"{type(error).__name__}: {error}"
        finally:
            it.clean_up()
            left = traces(it.ring)
            wipe(it.ring)
    verdicts = {job.group: judge(job.runs, Undisturbed(list(pixels)), pixels) for job in it.jobs if job.runs}
    rows = it.table(verdicts, left)
    print(f"\ndone: {', '.join(f'{kind} {count}' for kind, count in it.done.items()) or 'nothing'}")
    print(f"starts refused, and made good by starting all jobs anew: {dict(it.refused) or 'none'}\n")
    width = max(len(name) for name, _, _ in rows)
    for name, found, holds in rows:
        print(f"  {'ok' if holds else 'NO':<3} {name:<{width}}  {found}")
    if trouble is not None:
        print(f"  NO  it came to its end: {trouble}")
        print("".join(it.served.daemon.output.rest().splitlines(keepends=True)[-20:]))
    good = trouble is None and all(holds for _, _, holds in rows)
    print("\nall invariants hold" if good else "\nan invariant does not hold")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults are made (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: 0)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the trainers' logs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ringfeed-soak-"))
    try:
        with Interrupts():
            return soak(options.minutes, options.seed, folder)
    except KeyboardInterrupt:
        print("stopped by a signal; everything that was started is stopped")
        return 1
    finally:
        if options.keep:
            print(f"the logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
