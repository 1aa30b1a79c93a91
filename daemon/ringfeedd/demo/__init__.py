"""The demo: a bucket of real photographs, through the ring, into training ranks, in one command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def run_demo(pairs: int = 300, epochs: int = 2, ranks: int = 2, *, out: Path, keep: bool = False) -> int:
    """Makes a bucket, serves it, trains from it, and shows what happened.

    Args:
        pairs: how many pairs the bucket gets.
        epochs: how often the ranks see each of them.
        ranks: training processes.
        out: the folder that gets the picture; made when it is missing.
        keep: leave the working folder with the logs there, and say where it is.

    Returns:
        0 when everything went as it should, 1 when not, 2 for numbers that make no demo, 130 when it was interrupted.
        Whatever happens, no process and no shared memory of the demo is left.
    """
    # The ranks import this package as well, and shall not carry the daemon's side with them.
    from ringfeedd.demo.run import run_demo as run  # noqa: PLC0415

    return run(pairs, epochs, ranks, out=out, keep=keep)
