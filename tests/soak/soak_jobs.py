"""The soak's training jobs: started, killed, resumed from their logs, and refused where they come too late."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from audit import BEGINNING, Verdict, judge
from audit_catalogs import CatalogsRead, catalogs_read
from audited_job import Job, OtherCatalogError, RefusedError

STEP_S = 0.02
"""What a training step takes: some batches are in hand at each kill, and the ring is full now and then."""

WORLD_SIZES, BATCH_SIZES = (1, 2, 3), (8, 12)


class Jobs:
    """Two jobs on one ring, each a group of its own.

    A state is of one catalog. When a ring is left by all readers, it begins anew with the newest, and a state of a
    former one is refused. Then both jobs start over from the beginning: another *term*, with logs of its own.

    Attributes:
        terms: the jobs of each term; every job's log is whole.
        refused: starts that the daemon refused, by kind.
    """

    def __init__(self, ring: str, folder: Path, chance: random.Random, say: Callable[[str], None], patience_s: float):
        """
        Args:
            patience_s: how long a start of all of them may take.
        """
        self.terms: list[list[Job]] = []
        self.refused: Counter[str] = Counter()
        self._ring, self._folder = ring, folder
        self._random, self._say, self._patience_s = chance, say, patience_s
        self._start_over()

    def __repr__(self) -> str:
        return repr(self.all)

    @property
    def all(self) -> list[Job]:
        """Those of the present term."""
        return self.terms[-1]

    @property
    def pids(self) -> list[int]:
        """Of all ranks that live."""
        return [pid for job in self.all for pid in job.pids]

    def _start_over(self) -> None:
        folder = self._folder / f"term-{len(self.terms)}"
        folder.mkdir()
        self.terms.append([Job(self._ring, group, folder) for group in "AB"])

    def replace_one(self) -> None:
        """kill -9 of one job's ranks in some order, and its start from what all of them had logged."""
        job = self._random.choice(self.all)
        self._kill(job)
        self._start(job)
        job.order(f"until {sys.maxsize}")

    def start_all(self) -> None:
        """All anew from their logs, the earliest first: the ring begins at its place and is behind nobody's.

        Raises:
            OtherCatalogError: it begins with other ids than a log was of.
        """
        for job in self.all:
            if job.runs:
                self._kill(job)
        for job in sorted(self.all, key=lambda job: job.run.end if job.runs else BEGINNING):
            self._start(job)
            job.wait_attached(self._patience_s)
        for job in self.all:
            job.order(f"until {sys.maxsize}")

    def _kill(self, job: Job) -> None:
        ranks = self._random.sample(range(job.run.world_size), job.run.world_size)
        job.kill(ranks, gap_s=self._random.choice((0.0, 0.05)))
        self._say(f"kill -9 of job {job.group} (ranks {ranks}); all had logged up to {job.run.end}")

    def _start(self, job: Job) -> None:
        world_size, batch_size = self._random.choice(WORLD_SIZES), self._random.choice(BATCH_SIZES)
        job.start(world_size, batch_size, step_s=STEP_S)
        self._say(f"job {job.group} starts at {job.run.begin} with {world_size} ranks, batch size {batch_size}")

    def poll(self) -> None:
        """Read their logs on; where one was refused its place, start all anew."""
        for job in self.all:
            try:
                job.poll()
            except RefusedError as error:
                self._make_good(job, error)
                return

    def _make_good(self, job: Job, error: RefusedError) -> None:
        self._note(error)
        if isinstance(error, OtherCatalogError):
            self._check_left_behind(job, error)
        else:
            try:
                self.start_all()
            except OtherCatalogError as other:  # with nobody left to read it, the ring went on to the newest catalog
                self._note(other)
            else:
                return
        self._say("both jobs start over from the beginning")
        for each in self.all:
            self._kill(each)
        self._start_over()
        self.start_all()

    def _note(self, error: RefusedError) -> None:
        sentence = str(error).splitlines()[-1]
        kind = "behind the ring" if "lies behind" in sentence else sentence
        self.refused["of a former catalog" if isinstance(error, OtherCatalogError) else kind] += 1
        self._say(f"refused: {sentence}")

    def _check_left_behind(self, refused: Job, error: RefusedError) -> None:
        """A state is of a former catalog when all others have left its epoch behind; before that, its ids are kept."""
        refused_at = refused.run.begin
        for job in self.all:
            if job is not refused and job.pids:
                try:
                    job.poll()
                except RefusedError:  # it has not come in either
                    continue
                assert job.run.end[0] > refused_at[0], (
                    f"job {refused.group} was refused epoch {refused_at[0]} of its catalog, which job {job.group} "
                    f"reads at {job.run.end}: {error}"
                )

    def logged(self) -> dict[int, list[int]]:
        """How many batches each rank of each run that is under way has logged; a later start is another run."""
        return {id(job.run): [len(entries) for entries in job.run.ranks] for job in self.all}

    def went_on_since(self, before: dict[int, list[int]]) -> bool:
        """Whether every rank has logged more than it had, or something where it is new."""
        return all(
            count > was
            for run, counts in self.logged().items()
            for count, was in zip(counts, before.get(run, [0] * len(counts)), strict=True)
        )

    def end(self) -> None:
        """Every job reads to the end of an epoch that none has begun, and leaves."""
        last = 1 + max(entry.place[0] for job in self.all for entries in job.run.ranks for entry in entries[-1:])
        self._say(f"the jobs read on to epoch {last} and end")
        for job in self.all:
            job.order(f"until {last}")
        for job in self.all:
            job.finish()
            assert job.run.end == (last, 0), f"{job!r} did not end at epoch {last}"

    def judged(
        self, catalogs: Sequence[Sequence[str]], pixels: dict[str, str]
    ) -> tuple[dict[str, Verdict], list[CatalogsRead]]:
        """The verdict on each job over all terms; and the catalogs that the epochs were read from, by term."""
        verdicts: dict[str, Verdict] = {}
        found = []
        for term in self.terms:
            found.append(catalogs_read([run for job in term for run in job.runs], catalogs))
            for job in term:
                if job.runs:
                    verdict = judge(job.runs, found[-1].undisturbed(), pixels)
                    verdicts[job.group] = verdicts.get(job.group, Verdict()) + verdict
        return verdicts, found

    def kill(self) -> None:
        """All, whatever they do."""
        for job in self.all:
            if job.runs:
                job.kill()
