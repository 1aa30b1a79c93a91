"""What `ringfeed doctor` makes of what it finds: each function judges some facts, and does no I/O."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, TypeAlias
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # the types leave it out

from ringfeed.cli.report import RingStatus
from ringfeed.health.evidence import Verdict
from ringfeed.shm.layout import SHM_DIR
from ringfeedd.system.control_group import GroupMemory

SMALL_SHM_BYTES: Final = 1 << 30
"""A container's default is 64 MB, which holds no ring worth having."""

SMALL_GROUP_BYTES: Final = 1 << 30

FEW_FILES: Final = 128
SCARCE_FILES: Final = 1024

OLDEST_TORCH: Final = (2, 4)

CACHE_PART: Final = 0.8
"""The part of the free memory that a cache may have."""

GOOGLE_STORAGE: Final = "storage.googleapis.com"


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        topic: what was looked at.
        found: what it is like.
        cure: what to do; empty where all is well.
        verdict: of a ring: what bounds it.
    """

    topic: str
    level: Level
    found: str
    cure: str = ""
    verdict: Verdict | None = None

    def line(self) -> str:
        """For people."""
        return f"{self.level:<5} {self.topic:<12} {self.found}" + (f". {self.cure}" if self.cure else "")


def no_shared_memory(why: str) -> Check:
    """Return the finding where there is no folder for rings, or none that this user may look at."""
    cure = "Mount a tmpfs there with mode 1777: `mount -t tmpfs -o mode=1777 tmpfs /dev/shm`"
    return Check("memory", Level.BAD, f"{SHM_DIR} cannot be looked at: {why}", cure)


def shared_memory(*, total: int, free: int, writable: bool, read_only: bool = False, mode: int = 0o1777) -> Check:
    """Judge the memory that rings are made of.

    Args:
        total, free: bytes.
        writable: for this user.
        read_only: it is mounted so.
        mode: of the folder.
    """
    found = f"{SHM_DIR} has {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    bad, warn = partial(Check, "memory", Level.BAD), partial(Check, "memory", Level.WARN)
    if read_only:
        return bad(
            f"{SHM_DIR} is mounted read-only here: `ringfeed status` and `top` work, and no trainer can attach",
            "Mount it read-write, in Kubernetes without `readOnly: true`",
        )
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        found = f"any user may remove or replace any file in {SHM_DIR} (mode {stat.S_IMODE(mode):04o})"
        return bad(found, "`chmod 1777 /dev/shm`")
    if not writable:
        cure = "No daemon can start here: `chmod 1777 /dev/shm`, or mount a tmpfs there"
        return bad(f"{SHM_DIR} cannot be written by this user", cure)
    if total < SMALL_SHM_BYTES:
        return warn(
            found,
            "A ring takes slots * (image + label) bytes of it: `docker run --shm-size=8g`, or `mount -o "
            "remount,size=8g /dev/shm`",
        )
    if free < total // 20:
        return warn(found, "See who has it: `ls -lS /dev/shm`; `ringfeed clean` helps if we do")
    return Check("memory", Level.OK, found)


def group_memory(memory: GroupMemory | None) -> Iterable[Check]:
    """The memory that a control group leaves this shell, and so a daemon started from it."""
    if memory is None:
        return
    level = Level.WARN if memory.left < SMALL_GROUP_BYTES else Level.OK
    cure = f"Rings and workers count, and the kernel kills what goes beyond: raise {memory.setting}, or stop others"
    yield Check("group", level, str(memory), "" if level is Level.OK else cure)


def open_files(soft: int, hard: int) -> Check:
    """RLIMIT_NOFILE of this shell, and so of a daemon started from it."""
    found = f"{soft} open files are allowed here (ulimit -n; hard limit {hard})"
    if soft >= SCARCE_FILES:
        return Check("files", Level.OK, found)
    cure = f"Start daemon and trainers with `ulimit -n {min(hard, 65536)}`, or LimitNOFILE= in the unit"
    return Check("files", Level.BAD if soft < FEW_FILES else Level.WARN, found, cure)


def leftovers(files: Mapping[str, int]) -> Check:
    """Files of dead daemons, counted by ring."""
    if not files:
        return Check("leftovers", Level.OK, "no dead daemon's files are in /dev/shm")
    rings = ", ".join(f"{ring} ({count} files)" for ring, count in sorted(files.items()))
    cure = "Start the daemon again (it takes up its trainers' places, and clears them), or `ringfeed clean`"
    return Check("leftovers", Level.WARN, f"dead daemons left files of {rings}", cure)


def clock(*, now_unix_s: float, newest_file_unix_s: float, synchronised: bool | None) -> Check:
    """The wall clock, on which only credentials rest.

    Args:
        newest_file_unix_s: when the newest file of this installation was written.
        synchronised: whether the kernel is told that the clock is kept right; None where it does not say.
    """
    cure = "Google refuses tokens from a wrong clock: run chrony or systemd-timesyncd"
    if now_unix_s < newest_file_unix_s - 86400:
        return Check("clock", Level.BAD, "the clock stands before this program was installed", cure)
    if synchronised is False:
        return Check("clock", Level.WARN, "nothing on this machine says that it keeps the clock right", cure)
    return Check("clock", Level.OK, "the clock is kept right" if synchronised else "the clock looks right")


def environment(environ: Mapping[str, str], *, credentials_readable: bool) -> Iterable[Check]:
    """Variables that change what a daemon started from this shell would do."""
    if host := environ.get("STORAGE_EMULATOR_HOST"):
        cure = "A daemon started here refuses gs:// roots without --emulator: unset it to read from Google"
        yield Check("environment", Level.WARN, f"STORAGE_EMULATOR_HOST is set to {host!r}", cure)
    yield from _proxies(environ)
    if (path := environ.get("GOOGLE_APPLICATION_CREDENTIALS")) and not credentials_readable:
        found = f"GOOGLE_APPLICATION_CREDENTIALS names {path!r}, which this user cannot read"
        cure = "Correct the path or the file's mode, or unset it on a Google VM"
        yield Check("environment", Level.BAD, found, cure)


def _proxies(environ: Mapping[str, str]) -> Iterable[Check]:
    """What a daemon makes of the proxies in its environment; names in lower case win, as for urllib."""

    def named(variable: str) -> str | None:
        found = variable if variable in environ else variable.upper()
        return found if environ.get(found) else None

    name, unused, spared = named("https_proxy"), named("all_proxy"), named("no_proxy")
    if name and not (spared and proxy_bypass_environment(GOOGLE_STORAGE, {"no": environ[spared]})):
        found = f"{name} is set: every download goes through {urlsplit(environ[name]).hostname or 'a proxy'}"
        yield Check("environment", Level.WARN, found, f"Slow? Put {GOOGLE_STORAGE} into no_proxy")
    if unused and not name:
        found = f"{unused} is set, which a daemon does not use: downloads go out directly"
        cure = f"Set https_proxy if {GOOGLE_STORAGE} can only be reached through a proxy"
        yield Check("environment", Level.WARN, found, cure)


def packages(*, fast: Mapping[str, str | None], torch: str | None) -> Iterable[Check]:
    """The optional packages.

    Args:
        fast: version by package of the extra ``fast``; None where one is not installed.
        torch: its version; None where it is not installed.
    """
    missing = [name for name, version in fast.items() if version is None]
    if missing:
        found = f"{', '.join(missing)} not installed: decoding takes more CPU, with the same pixels"
        yield Check("codecs", Level.WARN, found, "pip install 'ringfeed[fast]'")
    else:
        yield Check("codecs", Level.OK, ", ".join(f"{name} {version}" for name, version in fast.items()) or "none")
    if torch is None:
        yield Check("torch", Level.OK, "not installed; the daemon and numpy readers need none")
    elif tuple(int(part) for part in torch.split("+")[0].split(".")[:2] if part.isdigit()) < OLDEST_TORCH:
        least = ".".join(map(str, OLDEST_TORCH))
        yield Check("torch", Level.WARN, f"torch {torch} is not tested", f"Upgrade to torch {least} or later")
    else:
        yield Check("torch", Level.OK, f"torch {torch}")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is known to be the daemon.

    Attributes:
        pid: its number in the namespace of the process that reads this.
        state: what it does in one letter, as /proc has it.
    """

    pid: int
    state: str


def ring(status: RingStatus, process: Process | None) -> Check:
    """One ring: the worst that can be said of it.

    Args:
        process: the daemon's; None where it cannot be seen, e.g. from another container.
    """
    verdict = status.verdict
    level, found, cure = _gone(status) or _hangs(status, process) or _waits(status) or _hurt(status) or _serves(status)
    if verdict.sentence and verdict.sentence != found:
        found = f"{found}; {verdict.sentence}"
    return Check(f"ring {status.ring}", level, found, cure, verdict)


def caches(statuses: Sequence[RingStatus], spare: int) -> Iterable[Check]:
    """Return what each daemon's cache holds, or could hold.

    Args:
        statuses: of all rings.
        spare: bytes of shared memory that could be given to a cache.
    """
    daemons: dict[int, list[RingStatus]] = {}
    for status in statuses:
        daemons.setdefault(status.daemon_pid, []).append(status)
    for rings in daemons.values():
        first = rings[0]
        pairs = sum(ring.epoch_length * ring.num_nodes for ring in rings)
        topic = f"cache {first.ring}"
        if first.cache_rows >= pairs:
            yield Check(topic, Level.OK, f"all {pairs:,} pairs fit into the memory cache")
            continue
        row_bytes = first.cache_row_bytes or -(-first.memory_bytes // first.slots)
        could = min(pairs, first.cache_rows + int(CACHE_PART * spare) // row_bytes)
        now = f"{first.cache_rows / pairs:.0%} of the set fit into the memory cache" if first.cache_rows else "is off"
        found = f"{now}; {could / pairs:.0%} would fit into {could * row_bytes / 2**30:.1f} GiB"
        if could > 1.1 * first.cache_rows:
            advice = f'Set memory = "{-(-could * row_bytes >> 30)} GiB" in [cache] to save requests and decodes'
            yield Check(topic, Level.OK, found, advice)


_Finding: TypeAlias = tuple[Level, str, str]


def _gone(status: RingStatus) -> _Finding | None:
    """No more pairs will come."""
    if status.state == "dead":
        cure = "See its log, e.g. `journalctl -u ringfeed`, and start it again"
        return Level.BAD, f"its daemon (pid {status.daemon_pid}) died", cure
    if status.state == "failed":
        cure = f"`ringfeed errors {status.ring}` lists the pairs; fix them, and restart the daemon"
        return Level.BAD, f"was stopped: {status.reason}", cure
    return None


def _hangs(status: RingStatus, process: Process | None) -> _Finding | None:
    """The daemon lives and does nothing."""
    if not status.hangs:
        return None
    found = f"its daemon (pid {process.pid if process else status.daemon_pid}) lives, and {status.hangs}"
    if process is not None and process.state in ("T", "t"):
        return Level.BAD, f"{found}: it is stopped", f"Let it go on: `kill -CONT {process.pid}`"
    if process is not None and process.state == "D":
        return Level.BAD, f"{found}: it waits for a disk or for swap", "See `dmesg` and `vmstat 1`"
    return Level.BAD, found, "See its log and the load of the machine; restart it if it stays so"


def _waits(status: RingStatus) -> _Finding | None:
    """Judge whether readers are kept from reading while the daemon works."""
    if len(status.consumers) >= status.lanes:
        cure = "Raise `lanes` in the daemon's configuration and restart it"
        return Level.WARN, f"all {status.lanes} lanes are taken; no other reader can attach", cure
    if not status.verdict.well:
        return Level.WARN, status.verdict.sentence, f"`ringfeed status {status.ring}` shows every reader"
    return None


def _serves(status: RingStatus) -> _Finding:
    """All is well."""
    readers = f"{len(status.consumers)}/{status.lanes} readers"
    return Level.OK, f"serves: {status.filled_slots}/{status.slots} slots filled, {readers}", ""


def _hurt(status: RingStatus) -> _Finding | None:
    """It serves, and something went wrong before."""
    if status.worker_deaths:
        found = f"{status.worker_deaths} of its worker processes have died since its start"
        return Level.WARN, found, "The log says of what; too little memory is common"
    if status.failed_pairs:
        found = f"{status.failed_pairs} draws failed since its start, and were replaced"
        return Level.WARN, found, f"`ringfeed errors {status.ring}` lists them"
    return None


SLOW_STORE_S: Final = 2.0


def store_answers(root: str, *, listed_s: float, object_s: float, object_bytes: int) -> Check:
    """Judge a bucket that answered.

    Args:
        listed_s: seconds for a page of its listing.
        object_s: seconds for one object.
        object_bytes: of that; 0 where there was none.
    """
    topic, listed = f"store {root}", f"answers: a page of its listing took {_seconds(listed_s)}"
    if not object_bytes:
        return Check(topic, Level.WARN, f"{listed}, and there is no object in it", "Check the bucket and the prefix")
    found = f"{listed}, an object of {max(1, object_bytes // 1000):,} kB {_seconds(object_s)}"
    if max(listed_s, object_s) > SLOW_STORE_S:
        return Check(topic, Level.WARN, f"{found}, which is slow", "Check the network, and where the bucket lies")
    return Check(topic, Level.OK, found)


def store_fails(root: str, sentence: str, cause: str) -> Check:
    """Judge a bucket that did not give what it was asked for.

    Args:
        cause: of the `SourceError`; empty for another error.
    """
    topic = f"store {root}"
    if cause == "http_429":
        cure = "Use less --concurrency, or request a higher quota; a daemon keeps to what the store accepts"
        return Check(topic, Level.WARN, f"limits the rate: {sentence.rstrip('.')}", cure)
    cures = {
        "forbidden": "Give the account the role Storage Object Viewer on the bucket",
        "unauthorized": "Check the credentials and the clock",
        "missing": "Check the name of the bucket",
    }
    cure = cures.get(cause, "Check the network, the proxy and the address" if cause else "")
    return Check(topic, Level.BAD, f"cannot be read: {sentence.rstrip('.')}", cure)


def store_is_silent(root: str, seconds: float) -> Check:
    """Judge a bucket that has not answered for so long."""
    return store_fails(root, f"no answer within {seconds:g} s", "timeout")


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"
