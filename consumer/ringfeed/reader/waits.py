"""A reader's wait for its next batch: when to say in the trainer's log why it takes long, and what."""

from __future__ import annotations

from typing import Final

from ringfeed.log import TELL_AFTER_S
from ringfeed.plan import Block
from ringfeed.reader.attachment import Control

WARN_AFTER_S: Final = 10.0
"""A reader that has waited this long says in its log what it waits for; and again after as long."""


class Wait:
    """One wait.

    What no waiting mends, ranks of a group that do not read together, is said after `TELL_AFTER_S`.
    """

    def __init__(self, began_ns: int) -> None:
        """Begin it at a time by CLOCK_MONOTONIC."""
        self._began_ns = began_ns
        self._looks_ns = began_ns + int(TELL_AFTER_S * 1e9)
        self._waited_s = 0.0

    def is_due(self, now_ns: int) -> bool:
        """Return whether it is time to look for the reason."""
        if now_ns < self._looks_ns:
            return False
        self._waited_s = (now_ns - self._began_ns) / 1e9
        after_s = WARN_AFTER_S - self._waited_s if self._waited_s < WARN_AFTER_S else WARN_AFTER_S
        self._looks_ns = now_ns + int(after_s * 1e9)
        return True

    def explain(self, reader: object, block: Block, control: Control) -> str:
        """Return why a block is not there; empty where that is not worth a line yet."""
        found = control.held_up()
        if self._waited_s < WARN_AFTER_S and (found is None or not found.out_of_step):
            return ""
        waited = f"{reader!r} has waited {self._waited_s:.0f} s for pair {block.seq}"
        if found is not None:
            return f"{waited}: {found.sentence()}."
        return (
            f"{waited}; the ring has published up to {control.published}. `ringfeed status {control.descriptor.ring}` "
            f"shows which reader or rank holds it up, or that the source is slow."
        )
