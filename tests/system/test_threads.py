"""Calls in threads, where no thread can be started: each is made once, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ringfeedd.system.threads import Threads


@pytest.mark.parametrize("allowed", [0, 1, 2, 99])
def test_each_call_is_made_once_with_few_threads(allowed, monkeypatch):
    start, left, made = threading.Thread.start, [allowed], []

    def start_some(thread: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)

    def call(number: int) -> int:
        made.append(number)
        return 10 * number

    async def run() -> list[int]:
        threads = Threads(4, "test")
        try:
            return await asyncio.gather(*(threads.run(call, number) for number in range(50)))
        finally:
            threads.shutdown()

    assert asyncio.run(run()) == [10 * number for number in range(50)]
    assert sorted(made) == list(range(50))


def test_errors_are_raised_and_dropped_calls_cancelled():
    began, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        go_on.wait(60)

    async def run() -> None:
        threads = Threads(1, "test")
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        holding = asyncio.create_task(threads.run(hold))
        waiting = asyncio.create_task(threads.run(hold))
        await asyncio.to_thread(began.wait, 10)
        threads.shutdown()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go_on.set()
        await holding

    asyncio.run(run())
