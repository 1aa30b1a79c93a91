"""``scripts/soak``: two jobs read from a real daemon over a sick store while all of them are killed, for minutes.

Every fault is chosen by the seed: what the store does wrong, and in the midst of it who is killed, stopped or robbed.
After each, everybody has to get on within `BOUND_S`; at the end each job's log must be, position by position, that of a
job to which nothing happened, and nobody may hold more of the machine than at the start. The bucket grows
meanwhile, and each epoch must be of one of the catalogs that it had, whole, and never of a former one.
"""

from __future__ import annotations

import argparse
import math
import os
import queue
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from audit import reference_digests
from hostile_member import HostileMember
from house import photographs, traces, wipe
from manager import Manager
from soak_bucket import PREFIX, ROOT, Bucket
from soak_faults import Served, stopped
from soak_jobs import Jobs
from soak_table import BOUND_S, Ending, Invariant, catalogs, invariants
from soak_usage import Growth, generations, shared
from soak_weather import FAULTS, OUTAGES, Weather

from ringfeed.cli.status import ring_status
from ringfeed.errors import RingfeedError
from ringfeedd.demo.interrupts import Interrupts

PAIRS = 131
RESERVE_A_MINUTE = 8
HEIGHT, WIDTH = 48, 64
SLOTS = 96
PATIENCE = ("--linger-blocking-s", "1", "--read-timeout-s", "1", "--max-attempts", "100", "--max-failed", "0")
"""Nothing may be lost to a store that is ill for seconds, so a single failed pair stops the ring, and the soak."""

VISITS = "a hostile member's visit"

KINDS = {
    "kill a job": 6,
    "kill the daemon": 4,
    "restart the daemon": 2,
    "kill a worker": 3,
    "kill daemon and job": 2,
    "stop the daemon": 2,
    "stop a worker": 2,
    "stop a trainer": 2,
    "remove the ring's files": 3,
    "list the bucket again": 1,
    "": 4,
}
"""How often each is chosen, relatively; the empty one leaves it at what the store does."""

GROWTH = 0.4
"""In how many rounds the bucket grows shortly before the fault, which then falls into the change."""

WEATHERS = {"": 8} | dict.fromkeys(FAULTS, 1) | dict.fromkeys(OUTAGES, 2)
"""What the store does meanwhile."""

MOST_STOPPED_S = 5.0
LOOK_INTERVAL_S = 0.5
MOST_ORPHANED_S = 10.0
"""A worker whose daemon was killed is gone within this."""


class BoundError(Exception):
    """Somebody waited too long."""


class Soak:
    """One run: the jobs, the daemon, the store, and what was done to them."""

    def __init__(self, folder: Path, weather: Weather, bucket: Bucket, seed: int, *, hostile: bool) -> None:
        self.ring = f"soak{os.getpid()}"
        shape = ["--size", f"{HEIGHT}x{WIDTH}", "--label-mode", "index", "--slots", str(SLOTS), "--workers", "2"]
        arguments = ["--emulator", weather.store.url, *shape, "--concurrency", "16", *PATIENCE]
        arguments += ["--catalog-cache", str(folder / "catalogs")]
        self.growth = Growth()
        self.weather = weather
        self.bucket = bucket
        self.manager = Manager(folder / "notify")
        self.served = Served((ROOT, arguments), self.ring, self.growth, self.manager)
        self.done: Counter[str] = Counter()
        self.longest_s = 0.0
        self.member = HostileMember(f"{self.ring}-train", seed) if hostile else None
        self.ending: Ending | None = None
        self._next_look = 0.0
        self._random = random.Random(seed)
        self.jobs = Jobs(f"{self.ring}-train", folder, self._random, self.say, BOUND_S)
        self._began = time.monotonic()

    def say(self, sentence: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {sentence}", flush=True)

    def run(self, minutes: float) -> None:
        """Do it.

        Raises:
            BoundError: somebody waited too long.
        """
        self.weather.store.start()
        self.served.start()
        self.served.wait_ready()
        self.jobs.start_all()
        self._recover()
        before = shared(self.ring)
        if self.member is not None:
            self.member.start()
        self._began = time.monotonic()
        while time.monotonic() - self._began < 60 * minutes:
            self._go_on(self._random.uniform(0.2, 2.0))
            self._begin_weather(self._choose(WEATHERS))
            if self._random.random() < GROWTH:
                self._grow()
            self._do(self._choose(KINDS))
            if self.weather.now:
                self._go_on(self._random.uniform(0.0, 4.0))
                self._end_weather()
            self._recover()
        if self.member is not None:
            self.done[VISITS] += self.member.stop()
        self._rest(minutes)
        maps = [generations(pid, f"{self.ring}-train") for pid in self.jobs.pids]
        self.ending = Ending(before, shared(self.ring), max(maps))
        self.jobs.end()
        self._stop_daemon()
        deadline = time.monotonic() + MOST_ORPHANED_S
        while orphans := self.served.orphans():
            assert time.monotonic() < deadline, f"workers outlive their daemons: {orphans}"
            time.sleep(0.05)

    def _choose(self, weights: dict[str, int]) -> str:
        (chosen,) = self._random.choices(list(weights), weights=list(weights.values()))
        return chosen

    def _begin_weather(self, kind: str) -> None:
        if kind:
            self.done[kind] += 1
            self.say(f"the store: {kind}")
            self.weather.begin(kind)
            self._go_on(self._random.uniform(0.0, 2.0))

    def _end_weather(self) -> None:
        if self.weather.now:
            self.weather.end()
            self.say("the store is well again")

    def _do(self, kind: str) -> None:
        """One of `KINDS`."""
        if not kind:
            return
        self.done[kind] += 1
        if kind == "kill a worker":
            self.say("kill -9 of a worker process")
            self.served.kill_worker(self._random.choice)
        elif kind == "remove the ring's files":
            self.say("rm of the ring's files in /dev/shm")
            if self.weather.outage:  # the ring begins anew, and is ready when it has something to give
                self._end_weather()
            self.served.rob()
        elif kind == "list the bucket again":
            self._list_again()
        elif kind.startswith("stop"):
            self._stop(kind)
        else:
            self._replace(kind)

    def _grow(self) -> None:
        self.done["the bucket grows"] += 1
        self.say(f"the bucket grows by {self.bucket.grow() or 'nothing more'!r}")
        self._list_again()
        self._go_on(self._random.uniform(0.0, 1.0))

    def _list_again(self) -> None:
        self.say("SIGHUP: the daemon lists the bucket again")
        self.served.daemon.process.send_signal(signal.SIGHUP)

    def _stop(self, kind: str) -> None:
        """SIGSTOP for a while."""
        pids = {
            "stop the daemon": [self.served.daemon.process.pid],
            "stop a worker": self.served.workers(),
            "stop a trainer": self.jobs.pids,
        }[kind]
        if pids:
            seconds = self._random.uniform(0.5, MOST_STOPPED_S)
            self.say(f"{kind} for {seconds:.1f} s")
            with stopped(self._random.choice(sorted(pids))):
                self._go_on(seconds)

    def _replace(self, kind: str) -> None:
        """Kill, and start again."""
        if kind == "restart the daemon":
            self.say("clean restart of the daemon")
            self._stop_daemon()
            assert not traces(self.ring), f"a clean stop left {traces(self.ring)}"
        if "daemon" in kind and kind.startswith("kill"):
            self.say("kill -9 of the daemon")
            self.served.kill()
        if "daemon" in kind:
            if self.weather.outage:  # a daemon does not start without a listing, and says so
                self._end_weather()
            self.served.start()
        if "job" in kind:
            self.jobs.replace_one()
        if "daemon" in kind:
            self.served.wait_ready()

    def _stop_daemon(self) -> None:
        code = self.served.stop()
        assert code == 0, f"the daemon ended with {code}"

    def _go_on(self, seconds: float) -> None:
        """Let everybody read for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._poll()
            time.sleep(0.02)

    def _look(self) -> None:
        """Note now and then what everybody holds."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_INTERVAL_S
            for pid in self.jobs.pids:
                self.growth.look("trainer", pid)
            self.served.look()

    def _poll(self) -> None:
        self._look()
        self.jobs.poll()

    def _recover(self) -> None:
        """Wait until every rank reads from the daemon that serves now, and has taken a batch more."""
        began = time.monotonic()
        before = self.jobs.logged()
        while not (self._all_attached() and self.jobs.went_on_since(before)):
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            if self.longest_s > BOUND_S:
                raise BoundError(f"after {self.longest_s:.0f} s somebody has not gone on: {self.jobs}")
            self._poll()
            time.sleep(0.02)

    def _all_attached(self) -> bool:
        try:
            return {lane.pid for lane in ring_status(f"{self.ring}-train").consumers} == set(self.jobs.pids)
        except (RingfeedError, OSError):
            return False

    def _rest(self, minutes: float) -> None:
        """Let the last processes have as long a life as they need to be compared, and what was added come in."""
        self._list_again()
        self.say("nothing is done for a while, to see what is held in the end")
        self._go_on(max(6.0, min(60.0, 6 * minutes)))

    def clean_up(self) -> None:
        """Stop every child, whatever happened."""
        if self.member is not None:
            self.member.stop()
        self.jobs.kill()
        daemon = getattr(self.served, "daemon", None)
        if daemon is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        self.weather.store.kill()
        self.manager.close()


def soak(minutes: float, seed: int, folder: Path, *, hostile: bool) -> int:
    """Run it and print what came of it; 0 when all invariants hold."""
    reserve = math.ceil(RESERVE_A_MINUTE * minutes)
    objects = photographs(PAIRS + reserve, prefix=PREFIX)
    pixels = reference_digests(objects, PREFIX, HEIGHT, WIDTH)
    bucket = Bucket(folder / "buckets", objects, list(pixels), reserve, seed)
    it = Soak(folder, Weather(folder / "buckets", seed), bucket, seed, hostile=hostile)
    trouble = None
    try:
        it.run(minutes)
    except (BoundError, AssertionError, queue.Empty) as error:
        trouble = f"{type(error).__name__}: {error}"
    finally:
        it.clean_up()
        left = traces(it.ring)
        wipe(it.ring)
    verdicts, found = it.jobs.judged(bucket.catalogs, pixels)
    rows = [
        *invariants(verdicts, it.growth, it.ending, longest_s=it.longest_s, left=left),
        *catalogs(found),
    ]
    if hostile:
        visits = it.done[VISITS]
        rows.append(Invariant("a hostile member was there", f"{visits} visits", visits > 0))
    print(f"\ndone: {', '.join(f'{kind} {count}' for kind, count in it.done.items()) or 'nothing'}")
    print(f"starts refused, and made good by starting all jobs anew: {dict(it.jobs.refused) or 'none'}\n")
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"  {'ok' if row.holds else 'NO':<3} {row.name:<{width}}  {row.found}")
    if trouble is not None:
        print(f"  NO  it came to its end: {trouble}")
        print("".join(it.served.daemon.output.rest().splitlines(keepends=True)[-20:]))
    good = trouble is None and all(row.holds for row in rows)
    print("\nall invariants hold" if good else "\nan invariant does not hold")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, prog="scripts/soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults are made (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: 0)")
    parser.add_argument("--hostile", action="store_true", help="a member of the ring's group means harm meanwhile")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the trainers' logs")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ringfeed-soak-"))
    try:
        with Interrupts():
            return soak(options.minutes, options.seed, folder, hostile=options.hostile)
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
