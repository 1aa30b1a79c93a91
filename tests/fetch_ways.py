"""Both ways in which a worker fetches a pair: with tasks from the start, and by first reads that know none.

The same tests hold for both: a module of tests calls its own name `fetch_pair`, which its fixture `way` sets.
"""

from __future__ import annotations

import asyncio

import pytest

from ringfeedd.fetch import Fetched, fetch_pair
from ringfeedd.first_reads import FirstReads
from ringfeedd.sources import SourceError

LOOK_S = 0.01


def reader_of(source, tasks):
    """`Source.begin_read` of a test's source that only has `read`, which it does in these tasks."""

    def begin_read(name, generation, max_bytes, on_end):
        async def read():
            try:
                came = await source.read(name, generation, max_bytes)
            except SourceError as error:
                came = error
            on_end(came)

        tasks.append(asyncio.create_task(read()))
        return tasks[-1].cancel

    return begin_read


async def first_reads_then_fetch(traffic, pair, policy):
    """What a worker does where the source can begin reads without a task."""
    loop = asyncio.get_running_loop()
    came, tasks = loop.create_future(), []
    first = FirstReads(traffic, reader_of(traffic._source, tasks), policy)

    def look():
        nonlocal timer
        timer = loop.call_later(LOOK_S, look)
        first.cut_late()

    timer = loop.call_later(LOOK_S, look)
    reads = first.begin(pair, came.set_result)
    try:
        result = (None, None) if reads is None else await came
    finally:
        timer.cancel()
        if reads is not None:
            reads.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert repr(first) == "FirstReads(0 pairs)"
    return result if isinstance(result, Fetched) else await fetch_pair(traffic, pair, policy, result)


WAYS = {"tasks": fetch_pair, "first reads": first_reads_then_fetch}
BY_TASKS_ONLY = pytest.mark.parametrize("way", ["tasks"], indirect=True)
"""For what first reads leave to others: a source's defects, refused tokens, deadlines by the event loop's time."""
