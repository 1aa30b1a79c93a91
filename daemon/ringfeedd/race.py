"""Two requests for the same thing: the first that succeeds wins, and the other is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def race(
    first: Coroutine[Any, Any, T], delay_s: float, second: Callable[[], Coroutine[Any, Any, T] | None]
) -> tuple[T, bool]:
    """The result of whichever succeeds first, and whether that was the second.

    Nothing is left running, however this ends.

    Args:
        first: is begun at once.
        delay_s: seconds without a result after which `second` is asked for another; it may decline with None.

    Raises:
        Exception: what `first` raised, where none succeeds.
    """
    leader = asyncio.create_task(first)
    racers = {leader}
    try:
        done, _ = await asyncio.wait(racers, timeout=delay_s)
        if not done and (follower := second()) is not None:
            racers.add(asyncio.create_task(follower))
            while running := {racer for racer in racers if not racer.done()}:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if winner := next((racer for racer in done if racer.exception() is None), None):
                    return winner.result(), winner is not leader
        return await leader, False
    finally:
        for racer in racers:
            racer.cancel()
        await asyncio.gather(*racers, return_exceptions=True)
