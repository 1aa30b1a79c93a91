"""What stops the demo; one sentence, and the last lines of the process that failed."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message says which part failed, and what that part said last."""
