"""What stops a benchmark; one sentence."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement cannot be taken, or would say something else than it claims to."""
