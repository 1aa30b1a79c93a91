"""The worker's answers on their way to the supervisor: many in one frame, none of them late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ringfeedd.fetch.health import StoreReport
from ringfeedd.worker import protocol as messages
from ringfeedd.worker.protocol import Copied, Result, Results

RESULTS_WAIT_S: Final = 0.01
"""What ends within it goes to the supervisor in one frame: waking both sides for each pair costs more than that pair's
words, and a ring does not miss 10 ms."""

BUSY_RESULTS_WAIT_S: Final = 0.03
"""The same while more pairs wait to be decoded: then no reader waits for these, or all wait for many more."""

COPIED_PART: Final = 8
"""Copies are answered at once when they fill this part of their ring (1/8): a ring of 256 slots holds no more than
20 ms of them, so it would wait for each answer that waits. Each answer is a turn of the supervisor's loop, which costs
as much as ten pairs."""


class Outbox:
    """Collects answers, and sends them soon.

    Attributes:
        busy: more pairs wait to be decoded.
        disk_error: goes with the next frame; empty for none.
    """

    def __init__(self, stream: asyncio.StreamWriter, slots: Sequence[int], report: Callable[[], StoreReport]) -> None:
        """Begin empty.

        Args:
            stream: frames are written to it.
            slots: of each ring.
            report: returns how the worker fares with the store; sent when it has changed.
        """
        self._loop = asyncio.get_running_loop()
        self._stream, self._report = stream, report
        self._reported = report()
        self._results: list[Result] = []
        self._copied = [Copied(ring, [], []) for ring in range(len(slots))]
        self._slots = slots
        self._waiting = False
        self._flush_by = 0.0
        self.busy = False
        self.disk_error = ""

    def __repr__(self) -> str:
        return f"Outbox({len(self._results)} results)"

    def add(self, result: Result) -> None:
        """Answer for one pair."""
        self._results.append(result)
        if not self._waiting:
            self._flush_soon()

    def add_copied(self, ring: int, seqs: list[int], wrong: list[int]) -> None:
        """Answer for pairs of the memory tier; see `Copied`."""
        copied = self._copied[ring]
        copied.seqs.extend(seqs)
        copied.wrong.extend(wrong)
        if len(copied.seqs) * COPIED_PART >= self._slots[ring]:
            self._send()
        elif not self._waiting:
            self._flush_soon()

    def look(self) -> None:
        """Send the report if it has changed."""
        if not self._waiting and self._report() != self._reported:
            self._flush_soon()

    def _flush_soon(self) -> None:
        self._waiting = True
        self._flush_by = self._loop.time() + BUSY_RESULTS_WAIT_S
        self._loop.call_later(RESULTS_WAIT_S, self._flush)

    def _flush(self) -> None:
        if self.busy and self._loop.time() < self._flush_by:
            self._loop.call_later(RESULTS_WAIT_S, self._flush)
            return
        self._waiting = False
        self._send()

    def _send(self) -> None:
        report = self._report()
        copied = [one for one in self._copied if one.seqs or one.wrong]
        if self._results or copied or report != self._reported:
            self._reported = report
            self._stream.write(messages.frame_of_results(Results(self._results, report, copied, self.disk_error)))
            self._results, self.disk_error = [], ""
            for one in copied:
                one.seqs.clear()
                one.wrong.clear()
