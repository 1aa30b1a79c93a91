"""Processes that kill themselves at the n-th thing they do to shared memory: a store, a lock, a doorbell, a file."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

from ring_fixtures import PaintingPool, make_descriptor, make_service, small_geometry, step

import ringfeed
from ringfeed.shm import descriptor, segment
from ringfeed.shm.lane import LanePage
from ringfeed.shm.semaphore import Doorbell
from ringfeedd.recovery.cleanup import clear_leavings
from ringfeedd.recovery.predecessor import read_predecessors
from ringfeedd.ring.groups import Groups
from ringfeedd.shm import memory as shm
from ringfeedd.shm.lock import SingletonLock
from ringfeedd.shm.memory import Access, RingMemory

STEPS = (
    *(
        (segment, name)
        for name in ("create", "reserve", "give_name", "open_existing", "map_bytes", "map_region", "try_lock", "unlock")
    ),
    *((segment, name) for name in ("close_lock", "is_still")),
    *((Doorbell, name) for name in ("ring", "take", "drain", "close")),
    *((RingMemory, name) for name in ("set", "write_record", "ring_lane", "ring_all", "unlink")),
    (LanePage, "__setitem__"),
    (Path, "unlink"),
    (Path, "rename"),
    (Path, "chmod"),
    (shm, "write_descriptor"),
    (descriptor, "read_descriptor"),
)


def die_at(step: int) -> None:
    """Have this process killed just before its n-th step."""
    left = [step]

    def armed(call):
        def do(*arguments, **named):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return do

    for owner, name in STEPS:
        setattr(owner, name, armed(getattr(owner, name)))


def trainer_story(ring: str, group: str, path: str) -> None:
    """Attach, take, hold, release and leave; what is taken is logged. It may go on where another of these stood."""
    ringfeed.process_number = lambda _pid: 7
    with Path(path).open("a") as log, ringfeed.attach(ring, batch_size=2, group=group or None) as reader:
        held = []
        for batch in itertools.chain.from_iterable(iter(reader) for _ in range(2)):  # beyond an epoch's end, too
            log.write(f"{os.getpid()} {batch.epoch} {batch.positions[0]}\n")
            log.flush()
            held = [*held[-1:], batch]
            del batch
            if reader.statistics()["batches"] == 4:
                break


def daemon_story(ring: str, epoch_length: str) -> None:
    """Serve a painted ring until SIGTERM, as the supervisor does."""
    lock = SingletonLock(ring, Access())
    predecessors = read_predecessors(ring)
    for former in predecessors:
        former.keep()
    clear_leavings(ring, frozenset(former.descriptor.generation for former in predecessors))
    memory = RingMemory(make_descriptor(ring, small_geometry(lanes=2), int(epoch_length)), Access())
    service = make_service(memory, epoch_length=int(epoch_length), groups=Groups(gather_s=0.05))
    pool = PaintingPool(memory)
    service.expect(predecessors)
    service.begin(pool)
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    while not stop:
        step(service)
        pool.work(service)
        time.sleep(0.002)
    service.end()
    lock.release()


STORIES = {"trainer": trainer_story, "daemon": daemon_story}


class Zygote:
    """A process that forks one that tells a story, again and again: Python starts once."""

    def __init__(self, story: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, story, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        weakref.finalize(self, self._process.kill)

    def begin(self, step: int) -> int:
        """Have the story told until its n-th step; 0: to its end. Returns the pid."""
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> int:
        """Wait for the story's end; minus the signal that killed it, or its exit code."""
        while (line := self._process.stdout.readline()) and not line.startswith("ended"):
            pass
        return os.waitstatus_to_exitcode(int(line.split()[1]))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def main() -> None:
    story, *arguments = sys.argv[1:]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            if step := int(line):
                die_at(step)
            try:
                STORIES[story](*arguments)
            except BaseException as error:  # noqa: BLE001  # a fork must never come back into the loop
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print("ended", status, flush=True)


if __name__ == "__main__":
    main()
