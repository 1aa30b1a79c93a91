"""What is measured, and how each is started: Ringfeed's daemon and trainers, the floor, the peers' scripts."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from ringfeedd.bench.contender import Measured, Task
from ringfeedd.demo.children import Child
from ringfeedd.worker.launcher import tuned_copies

READY_TIMEOUT_S: Final = 60.0
RESULT_TIMEOUT_S: Final = 90.0
"""Beyond the measurement itself: start, warm-up, and the slowest peer on a busy machine."""

SLOTS: Final = 256

KEPT_MEMORY: Final = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    **tuned_copies({}),
}
"""Lets glibc keep big buffers instead of giving them back to the kernel each time, and copy rows past the caches: for
the peers as our workers do."""

FAST_PACKAGES: Final = ("simplejpeg", "deflate", "isal", "pycurl")


class Contender(Protocol):
    """Delivers batches."""

    @property
    def name(self) -> str:
        """Its row in the tables."""
        ...

    def run(self, task: Task, log: Path) -> list[Measured]:
        """Run once; what each consumer measured.

        Raises:
            DemoError: a process of it failed or was too late.
        """
        ...

    def check(self, task: Task, log: Path) -> dict[str, str]:
        """Deliver ``task.check_pairs`` pairs; hash of the pixels by id."""
        ...


@dataclass(frozen=True)
class Ringfeed:
    """The daemon as a user starts it, and trainers that read its ring.

    Attributes:
        serve: more flags for ``ringfeed serve``.
        groups, ranks: trainers are groups * ranks; every group gets every pair.
        without_fast: as where the extra ``fast`` is not installed.
        module: that is run as the daemon.
        trainer: the module that is run as a trainer, and delivers.
        settings: for the trainers, besides their ring and their place in it.
        ready_timeout_s: how long its listing and its first pairs may take.
    """

    name: str = "Ringfeed"
    serve: tuple[str, ...] = ()
    groups: int = 1
    ranks: int = 1
    without_fast: bool = False
    module: str = "ringfeedd"
    trainer: str = "ringfeedd.bench.trainer"
    settings: Mapping[str, Any] = field(default_factory=dict)
    ready_timeout_s: float = READY_TIMEOUT_S

    def run(self, task: Task, log: Path) -> list[Measured]:
        """See `Contender.run`."""
        return [msgspec.json.decode(line, type=Measured) for line in self._lines(task, log)]

    def check(self, task: Task, log: Path) -> dict[str, str]:
        """See `Contender.check`."""
        (line,) = self._lines(task, log)
        return msgspec.json.decode(line, type=dict[str, str])

    def _lines(self, task: Task, log: Path) -> list[str]:
        with contextlib.ExitStack() as started:
            daemon = started.enter_context(self.daemon(task, log, started))
            trainers = [
                started.enter_context(self.start_trainer(task, daemon, log, number))
                for number in range(self.groups * self.ranks)
            ]
            return [trainer.wait_for_line(_RESULT, timeout_s=task.seconds + RESULT_TIMEOUT_S) for trainer in trainers]

    def start_trainer(self, task: Task, daemon: Child, log: Path, number: int = 0) -> Child:
        """Start one of the trainers."""
        settings = {
            **self.settings,
            "ring": f"{self.ring_of(daemon)}-train",
            "group": f"group-{number // self.ranks}",
            "rank": number % self.ranks,
            "world_size": self.ranks,
        }
        mine = replace(task, roots={"daemon": daemon.pid}, settings=settings)
        return Child("a trainer", [sys.executable, "-m", self.trainer, mine.as_argument()], log=log / "trainer.log")

    def daemon(self, task: Task, log: Path, started: contextlib.ExitStack) -> Child:
        """The daemon, ready."""
        environ = dict(os.environ)
        if self.without_fast:
            hidden = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="ringfeed-bench-")))
            for package in FAST_PACKAGES:
                (hidden / f"{package}.py").write_text("raise ImportError('hidden by the benchmark')\n")
            environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(hidden), environ.get("PYTHONPATH"))))
        ring = f"bench-{uuid.uuid4().hex[:8]}"
        command = [
            *(sys.executable, "-m", self.module, "serve", f"gs://{task.bucket}", "--emulator", task.url),
            *("--ring", ring, "--size", f"{task.height}x{task.width}", "--label-mode", "index", "--test-ratio", "0"),
            *([] if "--slots" in self.serve else ["--slots", str(SLOTS)]),
            *([] if "--catalog-cache" in self.serve else ["--catalog-cache", "off"]),
            *self.serve,
        ]
        daemon = Child(ring, command, log=log / "daemon.log", environ=environ)
        try:
            daemon.wait_for_line("^ready", timeout_s=self.ready_timeout_s)
        except BaseException:
            daemon.stop()
            raise
        return daemon

    @staticmethod
    def ring_of(daemon: Child) -> str:
        """The ring's name without its split: what errors call the daemon, too."""
        return daemon.name


@dataclass(frozen=True)
class Script:
    """A contender of one process (and its children) for each copy.

    Attributes:
        command: without the task, which is the last argument.
        copies: that run side by side, each a loader of its own.
        consumers: result lines that one copy prints.
    """

    name: str
    command: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    copies: int = 1
    consumers: int = 1

    def run(self, task: Task, log: Path) -> list[Measured]:
        """See `Contender.run`."""
        return [msgspec.json.decode(line, type=Measured) for line in self._lines(task, log)]

    def check(self, task: Task, log: Path) -> dict[str, str]:
        """See `Contender.check`."""
        return msgspec.json.decode(self._lines(task, log)[0], type=dict[str, str])

    def _lines(self, task: Task, log: Path) -> list[str]:
        mine = replace(task, settings={**task.settings, **self.settings})
        command = [*self.command, mine.as_argument()]
        environ = {**os.environ, **self.environ}
        with contextlib.ExitStack() as started:
            children = [
                started.enter_context(Child(self.name, command, log=log / f"{_slug(self.name)}.log", environ=environ))
                for _ in range(self.copies)
            ]
            timeout_s = task.seconds + RESULT_TIMEOUT_S
            return [
                line
                for child in children
                for line in child.wait_for_lines(_RESULT, self.consumers, timeout_s=timeout_s)
            ]


_RESULT: Final = r"^\{"


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-").lower()


def floor(
    python: str, *, consumers: int = 1, codec: str = "fast", workers: int | None = None, cache: bool = False
) -> Script:
    """The least work that the task needs, in so many processes; None: one for each core.

    Args:
        cache: pairs are kept decoded in memory, once they came.
    """
    said = ["with a cache"] if cache else []
    said += [] if consumers == 1 else [f"{consumers} consumers"]
    said += [] if workers is None else [counted(workers, "worker")]
    return Script(
        name=", ".join(["least work", *said]),
        command=(python, "-m", "ringfeedd.bench.floor"),
        settings={"consumers": consumers, "codec": codec, "workers": workers, "cache": cache},
        environ=KEPT_MEMORY,
        consumers=consumers,
    )


def counted(number: int, what: str) -> str:
    """E.g. ``"1 worker"``, ``"2 workers"``."""
    return f"{number} {what}{'s' * (number != 1)}"


@dataclass(frozen=True)
class Peers:
    """The other loaders: the Python of their environment, and the folder of their scripts."""

    python: str
    folder: Path

    def get(self, name: str, *, copies: int = 1) -> Script:
        """One of `PEERS`, by its row's name."""
        script, settings, environ = PEERS[name]
        return Script(name, (self.python, str(self.folder / script)), settings, environ, copies)


PEERS: Final[dict[str, tuple[str, dict[str, Any], dict[str, str]]]] = {
    "SPDL, fast codecs": ("spdl_threads.py", {"codec": "fast"}, KEPT_MEMORY),
    "LitData raw, fast codecs": ("litdata_raw.py", {"codec": "fast"}, KEPT_MEMORY),
    "SPDL, Pillow": ("spdl_threads.py", {"codec": "pillow"}, KEPT_MEMORY),
    "WebDataset, fast codecs": ("webdataset_shards.py", {"codec": "fast"}, KEPT_MEMORY),
    "Grain, fast codecs": ("grain_threads.py", {"codec": "fast"}, KEPT_MEMORY),
    "PyTorch DataLoader": ("torch_loader.py", {"codec": "pillow"}, {}),
    "DataLoader over a dict in memory": ("memory_dict.py", {"codec": "pillow"}, {}),
    "MosaicML Streaming, converted data": ("mosaic_streaming.py", {"codec": "fast"}, KEPT_MEMORY),
    "LitData chunks, converted data": ("litdata_chunks.py", {"codec": "fast"}, KEPT_MEMORY),
    "the snippet's design": ("snippet.py", {"codec": "pillow"}, {}),
}
"""Script, settings and environment of every peer; those with fast codecs are tuned as well as we know."""

CACHED_PEERS: Final = (
    "DataLoader over a dict in memory",
    "MosaicML Streaming, converted data",
    "LitData chunks, converted data",
)
"""Those that keep pairs on this machine."""

BEST_PEERS: Final = ("SPDL, fast codecs", "LitData raw, fast codecs")
