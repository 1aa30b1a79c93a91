"""A session of measuring: where everything lies, and contenders run in turn, so that a busy minute hits all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from ringfeedd.bench.claims import Claim
from ringfeedd.bench.contender import Task, pixel_hash
from ringfeedd.bench.contenders import Contender, Peers
from ringfeedd.bench.errors import BenchError
from ringfeedd.bench.results import Rate, Result, combine, rate_rows
from ringfeedd.bench.store import BUCKET, Store
from ringfeedd.bench.workload import ORDINARY, Workload, make_workload
from ringfeedd.demo.errors import DemoError

CHECKED_PAIRS: Final = 64
"""Or half of a smaller workload: a contender that draws at random would look for its last pair for long."""

Entrant: TypeAlias = tuple[Contender, Task]
T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """What all commands need.

    Attributes:
        data: keeps the workloads.
        log: a folder for the output of everything that is started.
        rounds: how often each contender is run.
        seconds: of each run's window.
        pairs: of the ordinary workload.
        peers: None: only what needs no other loader.
        python: runs the floor.
        say: shows progress, a line at a time.
    """

    data: Path
    log: Path
    rounds: int
    seconds: float
    pairs: int
    peers: Peers | None
    python: str
    say: Callable[[str], None]

    def workload(self) -> Workload:
        """The ordinary one."""
        return make_workload(self.data, ORDINARY, pairs=self.pairs)

    def task(self, store: Store, workload: Workload) -> Task:
        """What is asked of a contender by default."""
        return Task(
            url=store.url,
            bucket=BUCKET,
            folder=workload.folder,
            height=workload.height,
            width=workload.width,
            seconds=self.seconds,
        )

    def rates(
        self,
        command: str,
        what: str,
        contenders: Sequence[Entrant],
        *,
        claims: Sequence[Claim] = (),
        check: bool = False,
    ) -> Result:
        """Run contenders in turn, so many rounds; one that fails is said in the notes and passed over.

        Args:
            claims: quotients shown next to the rates.
            check: first compare each one's pixels with Pillow's.

        Raises:
            BenchError: a contender delivers other pixels.
        """
        runs: dict[str, list[Rate]] = {contender.name: [] for contender, _ in contenders}
        notes: list[str] = []
        left = list(contenders)
        if check:
            left = [one for one in left if self._try(one, notes, lambda one: self._check(*one)) is not None]
        for number in range(self.rounds):
            for one in list(left):
                rate = self._try(one, notes, lambda one: combine(one[0].run(one[1], self.log)))
                if rate is None:
                    left.remove(one)
                    continue
                runs[one[0].name].append(rate)
                self.say(
                    f"{command} {number + 1}/{self.rounds}  {one[0].name:34} {rate.pairs_per_s:7.0f} pairs/s "
                    f"{rate.cpu_ms:6.2f} ms of CPU a pair"
                )
        figures = [figure for claim in claims if (figure := claim.figure(runs)) is not None]
        return Result(command, what, rates=rate_rows(runs), figures=figures, notes=notes)

    def _try(self, one: Entrant, notes: list[str], action: Callable[[Entrant], T]) -> T | None:
        try:
            return action(one)
        except DemoError as error:
            notes.append(f"{one[0].name} did not run: {str(error).splitlines()[0]}")
            self.say(f"{one[0].name} did not run: {error}")
            return None

    def _check(self, contender: Contender, task: Task) -> bool:
        found = contender.check(replace(task, check_pairs=min(CHECKED_PAIRS, len(task.entries()) // 2)), self.log)
        wrong = [pair_id for pair_id, pixels in found.items() if pixels != reference_hash(task.folder, pair_id)]
        if wrong:
            raise BenchError(
                f"{contender.name} delivers other pixels than Pillow for {len(wrong)} of {len(found)} pairs, the first "
                f"{wrong[0]}: what it would be measured at is another task"
            )
        self.say(f"{contender.name:34} delivers Pillow's pixels ({len(found)} pairs looked at)")
        return True


def reference_hash(folder: str, pair_id: str) -> str:
    """Return the hash of the pair's pixels as Pillow alone gives them: RGB, and class ids."""
    with (
        Image.open(Path(folder) / "images" / f"{pair_id}.jpg") as image,
        Image.open(Path(folder) / "labels" / f"{pair_id}.png") as label,
    ):
        return pixel_hash(np.asarray(image.convert("RGB")), np.asarray(label))
