"""The demo from its first to its last step: bucket, server, daemon, ranks, summary, picture; nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from ringfeedd.demo.bucket import BUCKET, PREFIX, fill_bucket
from ringfeedd.demo.children import Child
from ringfeedd.demo.emulator import Emulator
from ringfeedd.demo.errors import DemoError
from ringfeedd.demo.interrupts import Interrupts
from ringfeedd.demo.picture import write_picture
from ringfeedd.demo.report import read_reports, read_specimens
from ringfeedd.demo.summary import Summary
from ringfeedd.errors import EXIT_CLEAN, EXIT_CRASH, EXIT_USAGE, DaemonError

RING = "demo"
SERVED_RING = f"{RING}-train"
"""`serve --ring NAME` serves NAME-train and NAME-test."""

SIZE = "256x320"
BATCH_SIZE = 6
"""Pairs of a rank's batch: 300 pairs are whole rounds of 2 ranks, so that none is dropped at an epoch's end."""

ROUNDS_IN_THE_RING = 4
"""Slots of the ring, in rounds of all ranks."""

READY_TIMEOUT_S = 60.0
TRAINING_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 10.0
EXIT_INTERRUPTED = 130

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at, not written to


class RingStatus(msgspec.Struct, frozen=True):
    """What the demo wants to know of a ring in ``ringfeed status --json``: counts since the daemon's start."""

    decoded_pairs: int
    failed_pairs: int
    seeks: int


def run_demo(pairs: int, epochs: int, ranks: int, *, out: Path, keep: bool) -> int:
    """See `ringfeedd.demo.run_demo`."""
    if ranks < 1 or epochs < 1 or pairs < ranks * BATCH_SIZE:
        _complain(
            f"{pairs} pairs, {epochs} epochs and {ranks} ranks make no demo: it needs an epoch, a rank, and "
            f"{BATCH_SIZE} pairs for each rank, a batch"
        )
        return EXIT_USAGE
    begin = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="ringfeed-demo-"))
    try:
        with Interrupts() as interrupts:
            summary = _play(work, pairs, epochs, ranks, interrupts)
            picture = out / "pairs-from-the-ring.png"
            write_picture(read_specimens(work), picture)
    except (DemoError, DaemonError) as error:
        _complain(str(error))
        return EXIT_CRASH
    except KeyboardInterrupt:
        _complain("interrupted; every process of the demo was stopped")
        return EXIT_INTERRUPTED
    finally:
        if keep:
            print(f"logs and figures: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"\n{summary}\n\npicture: {picture}\nthe whole demo took {time.monotonic() - begin:.0f} s")
    faults = summary.faults()
    for fault in faults:
        _complain(fault)
    return EXIT_CRASH if faults else EXIT_CLEAN


def _play(work: Path, pairs: int, epochs: int, ranks: int, interrupts: Interrupts) -> Summary:
    """Starts one thing after the other; whatever was started is stopped at the end, the last first."""
    ringfeed = _executable()
    slots = ROUNDS_IN_THE_RING * ranks * BATCH_SIZE
    with contextlib.ExitStack() as started:
        with interrupts.deferred():
            emulator = started.enter_context(Emulator(work, bucket=BUCKET))
        print(f"server      gcp-storage-emulator at {emulator.url}", flush=True)
        fill_bucket(emulator.url, pairs=pairs)
        with interrupts.deferred():
            command = _serve_command(ringfeed, emulator.url, slots)
            daemon = started.enter_context(Child("the daemon", command, log=work / "daemon.log"))
        print("daemon     ", daemon.wait_for_line("^ready", timeout_s=READY_TIMEOUT_S), flush=True)
        with interrupts.deferred():
            training = started.enter_context(_training(work, epochs, ranks))
        training.wait(timeout_s=TRAINING_TIMEOUT_S)
        status = _status(ringfeed, work)
        code = daemon.stop(timeout_s=STOP_TIMEOUT_S)
        if code != EXIT_CLEAN:
            raise DemoError(f"the daemon did not stop cleanly on SIGTERM (exit code {code}); it said:{daemon.tail()}")
        requests = emulator.requests()
    left = leavings(SERVED_RING)
    if left:
        raise DemoError(f"the daemon left {', '.join(left)} in {SHARED_MEMORY}; `ringfeed clean` removes them")
    return Summary(
        pairs=pairs,
        epochs=epochs,
        dropped=pairs % (ranks * BATCH_SIZE),
        slots=slots,
        seeks=status.seeks,
        decoded=status.decoded_pairs,
        failed=status.failed_pairs,
        downloads=requests.downloads,
        reports=read_reports(work, ranks),
    )


def _serve_command(ringfeed: str, url: str, slots: int) -> list[str]:
    return [
        *(ringfeed, "serve", f"gs://{BUCKET}/{PREFIX}", "--catalog-cache", "off"),
        *("--emulator", url),
        *("--ring", RING),
        *("--size", SIZE),
        *("--slots", str(slots)),
        *("--label-mode", "index"),
        *("--test-ratio", "0"),
    ]


def _training(work: Path, epochs: int, ranks: int) -> Child:
    """The ranks, started."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)),
        *("--module", "ringfeedd.demo.train"),
        *("--ring", SERVED_RING, "--epochs", str(epochs), "--batch-size", str(BATCH_SIZE), "--out", str(work)),
    ]
    # One thread a rank, or torchrun warns about it; the loopback, since a host may not be able to resolve its name.
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return Child("the training", command, log=work / "train.log", echo=True, environ=environ)


def _status(ringfeed: str, work: Path) -> RingStatus:
    """What the daemon says of its ring; the whole answer goes to the working folder."""
    asked = subprocess.run(
        [ringfeed, "status", "--json", SERVED_RING], capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    if asked.returncode != 0:
        said = asked.stderr.decode(errors="replace").strip()
        raise DemoError(f"`ringfeed status` failed with exit code {asked.returncode}: {said}")
    (work / "status.json").write_bytes(asked.stdout)
    try:
        status = msgspec.json.decode(asked.stdout, type=dict[str, RingStatus])
    except msgspec.DecodeError as error:
        raise DemoError(f"`ringfeed status --json` answered something else than was expected: {error}") from error
    if SERVED_RING not in status:
        raise DemoError(f"`ringfeed status --json` knows no ring {SERVED_RING}")
    return status[SERVED_RING]


def leavings(ring: str) -> list[str]:
    """Names in /dev/shm that belong to the ring: segments, descriptor, lock, semaphores."""
    return sorted(entry.name for entry in SHARED_MEMORY.iterdir() if f"ringfeed.{ring}" in entry.name)


def _executable() -> str:
    """The `ringfeed` command of this very environment, or else the one on PATH."""
    beside = Path(sys.executable).parent / "ringfeed"
    found = str(beside) if beside.is_file() else shutil.which("ringfeed")
    if found is None:
        raise DemoError("no `ringfeed` command was found next to this Python or on PATH; install the package first")
    return found


def _complain(sentence: str) -> None:
    sys.stderr.write(f"demo: {sentence}\n")
