"""The command line's beginning: what must be under way before all else is imported."""

from __future__ import annotations

import gc
import os
import sys

from ringfeedd.launch import ForkServer
from ringfeedd.proxies import spare_local_hosts

SERVE = "serve"

EXIT_INTERRUPTED = 130
"""By Ctrl-C, as shells count it."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    server = None
    try:
        if words[:1] == [SERVE] and not {"-h", "--help"}.intersection(words):
            spare_local_hosts(os.environ)  # which it inherits
            server = ForkServer.begin()
        gc.disable()  # nearly all of what is imported stays: looking through it while it grows is a tenth of the time
        from ringfeedd.main import main as run  # noqa: PLC0415  # most of a start's imports

        gc.freeze()
        gc.enable()
        return run(words, server)
    except KeyboardInterrupt:  # while it was importing
        return EXIT_INTERRUPTED
    finally:
        if server is not None:
            server.close()
