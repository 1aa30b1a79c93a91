"""Threads for calls that block, as many as this process may have: where it may have no more, callers do the work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Generic, ParamSpec, TypeVar

_Result = TypeVar("_Result")
_Arguments = ParamSpec("_Arguments")


class Threads:
    """A few threads that do what would block an event loop.

    A process may be allowed few threads (``ulimit -u``). The standard executor then raises, though what it was given
    stays in its queue and may be done later.
    """

    def __init__(self, most: int, name: str) -> None:
        """Use up to ``most`` threads; each is started when it is needed."""
        self._executor = ThreadPoolExecutor(most, name)

    async def run(
        self, call: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        """Return what ``call`` returns for these arguments.

        It is called in a thread, or in this one where no further thread can be started.
        """
        job = _Once(partial(call, *arguments, **named))
        try:
            self._executor.submit(job).add_done_callback(job.note_dropped)
        except RuntimeError:  # it waits in the queue all the same, for a thread that there may be
            job()
        return await asyncio.wrap_future(job.done)

    def shutdown(self) -> None:
        """Let the threads end; calls not yet begun are dropped."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class _Once(Generic[_Result]):
    """A call that is made by whichever thread comes first."""

    def __init__(self, call: Callable[[], _Result]) -> None:
        self._call = call
        self._begun = threading.Lock()
        self.done: Future[_Result] = Future()

    def note_dropped(self, queued: Future[None]) -> None:
        """Tell the caller where the executor was shut down first."""
        if queued.cancelled():
            self.done.cancel()

    def __call__(self) -> None:
        if not self._begun.acquire(blocking=False) or not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self._call())
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            self.done.set_exception(error)
