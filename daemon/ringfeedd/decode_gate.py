"""Decodes go side by side, but one that may kill its process goes alone: then the death is its own."""

from __future__ import annotations

import asyncio


class DecodeGate:
    """Lets decodes of one worker in; used on its event loop only."""

    def __init__(self) -> None:
        self._inside = 0
        self._one_is_alone = False
        self._ones_waiting = 0
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"DecodeGate({self._inside} inside{', alone' if self._one_is_alone else ''}, {self._ones_waiting} wait)"

    @property
    def inside(self) -> int:
        """How many decode."""
        return self._inside

    async def enter(self, *, alone: bool) -> None:
        """Wait for one's turn; whoever came in must `leave`. A cancelled wait leaves nothing behind."""
        if alone:
            self._ones_waiting += 1  # nobody else comes in from here on, or its turn might never come
            try:
                while self._inside:
                    await self._changed.wait()
            finally:
                self._ones_waiting -= 1
                self._wake()
            self._one_is_alone = True
        else:
            while self._one_is_alone or self._ones_waiting:
                await self._changed.wait()
        self._inside += 1

    def leave(self) -> None:
        """Make room."""
        self._inside -= 1
        self._one_is_alone = False
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
