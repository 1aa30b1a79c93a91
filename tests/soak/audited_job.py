"""A job of audited ranks as real processes: started, told what to take, killed, resumed from what it had logged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from audit import BEGINNING, Entry, Run
from audited_trainer import OTHER_CATALOG, REFUSED

TRAINER = Path(__file__).with_name("audited_trainer.py")


class RefusedError(Exception):
    """The daemon refused a rank its place; the message is its sentence."""


class OtherCatalogError(RefusedError):
    """The state that a rank was to start from is of ids that are not served any more; the message is its sentence."""


class _Rank:
    def __init__(self, command: list[str], log: Path) -> None:
        self.log, self.attached = log, False
        self._said = log.with_suffix(".out")
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
        self._at = 0

    def read(self) -> list[Entry]:
        """What it has logged since the last look."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        lines = whole.decode().splitlines()
        self.attached = self.attached or "in" in lines
        return [Entry.parse(line) for line in lines if line != "in"]

    def check(self) -> None:
        """Raise when it ended otherwise than by being told to, or killed."""
        code = self.process.poll()
        if code == REFUSED:
            raise RefusedError(self.said())
        if code == OTHER_CATALOG:
            raise OtherCatalogError(self.said())
        assert code in (None, 0, -9), f"a rank ended with {code}:\n{self.said()}"

    def said(self) -> str:
        return self._said.read_text(errors="replace").strip()


class Job:
    """One group over all its runs.

    Attributes:
        runs: what was logged, the latest run last.
    """

    def __init__(self, ring: str, group: str, folder: Path) -> None:
        self.group = group
        self.runs: list[Run] = []
        self._ring, self._folder = ring, folder
        self._ranks: list[_Rank] = []

    @property
    def run(self) -> Run:
        return self.runs[-1]

    @property
    def pids(self) -> list[int]:
        return [rank.process.pid for rank in self._ranks if rank.process.poll() is None]

    def start(self, world_size: int, batch_size: int, *, step_s: float = 0.0) -> None:
        """Start its ranks where the last run's log ends; `wait_attached` says when they are in."""
        start = self.run.resume if self.runs else BEGINNING
        self.runs.append(Run(world_size, batch_size, start))
        name = f"{self.group}-{len(self.runs)}"
        self._ranks = []
        for rank in range(world_size):
            log = self._folder / f"{name}-{rank}.jsonl"
            shape = (rank, world_size, batch_size, json.dumps(start), log, step_s)
            command = [sys.executable, str(TRAINER), self._ring, self.group, *map(str, shape)]
            self._ranks.append(_Rank(command, log))

    def poll(self) -> None:
        """Read the logs on.

        Raises:
            RefusedError: a rank was refused its place.
            OtherCatalogError: its state is of a former catalog.
        """
        for rank, entries in zip(self._ranks, self.run.ranks, strict=True):
            entries.extend(rank.read())
            rank.check()

    def wait_attached(self, timeout_s: float = 30.0) -> None:
        self.wait(lambda: all(rank.attached for rank in self._ranks), timeout_s)

    def wait_steps(self, steps: int, timeout_s: float = 60.0) -> None:
        """Wait until every rank has logged so many batches of this run."""
        self.wait(lambda: self.run.steps >= steps, timeout_s)

    def wait(self, condition, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.poll() or not condition():
            assert time.monotonic() < deadline, f"{self!r} did not get on in {timeout_s:.0f} s"
            time.sleep(0.01)

    def order(self, words: str) -> None:
        """``take N`` or ``until EPOCH``, to all ranks; see `audited_trainer`."""
        for rank in self._ranks:
            try:
                rank.process.stdin.write(f"{words}\n".encode())
                rank.process.stdin.flush()
            except BrokenPipeError:
                rank.process.wait()  # poll() tells why it ended

    def kill(self, ranks: list[int] | None = None, gap_s: float = 0.0) -> None:
        """kill -9, in this order of ranks; what they had logged is read.

        Args:
            gap_s: between one rank and the next, as a launcher takes to notice.
        """
        for number in ranks if ranks is not None else range(len(self._ranks)):
            self._ranks[number].process.kill()
            self._ranks[number].process.wait()
            time.sleep(gap_s)
        for rank, entries in zip(self._ranks, self.run.ranks, strict=True):
            if rank.process.poll() is None:
                continue
            entries.extend(rank.read())
            rank.process.stdin.close()

    def finish(self, timeout_s: float = 60.0) -> None:
        """Wait until its ranks have ended as they were told to."""
        self.wait(lambda: all(rank.process.poll() is not None for rank in self._ranks), timeout_s)
        self.poll()
        for rank in self._ranks:
            rank.process.stdin.close()
            assert rank.process.returncode == 0, rank.said()

    def __repr__(self) -> str:
        run = self.runs[-1] if self.runs else None
        return f"Job({self.group!r}, {len(self.runs)} runs, at {run and run.end}, ends {self.ends})"

    @property
    def ends(self) -> list[int | None]:
        """Exit codes of its ranks; None while they run."""
        return [rank.process.poll() for rank in self._ranks]
