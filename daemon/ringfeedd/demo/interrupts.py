"""Ctrl-C and SIGTERM, once, and never between a process's start and the note that it has to be stopped."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Turns the first SIGINT or SIGTERM into a KeyboardInterrupt; a context manager.

    Later ones are ignored, for the first has begun to stop everything, which takes seconds at most and must not be cut
    short. Outside the main thread, where Python runs no handlers, it changes nothing.
    """

    def __init__(self) -> None:
        self._arrived = False
        self._raised = False
        self._deferred = False
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, nothing is raised; what arrived meanwhile is raised at the end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self._raise_once()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._arrived = True
        if not self._deferred:
            self._raise_once()

    def _raise_once(self) -> None:
        if self._arrived and not self._raised:
            self._raised = True
            raise KeyboardInterrupt
