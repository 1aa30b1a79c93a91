"""The command line's beginning: what must be under way before all else is imported."""

from __future__ import annotations

import gc
import os
import signal
import sys

from ringfeedd.errors import EXIT_COULD_NOT_START
from ringfeedd.system.console import STDERR, open_missing, write_lines_only
from ringfeedd.system.credentials import use_key
from ringfeedd.system.limits import exhausted, little_address_space
from ringfeedd.system.proxies import spare_local_hosts
from ringfeedd.worker.launcher import ONE_THREAD, ORDERS, ForkServer

SERVE = "serve"

EXIT_INTERRUPTED = 130
"""By Ctrl-C, as shells count it."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    server = None
    open_missing()
    try:
        if words[:1] == [SERVE] and not {"-h", "--help"}.intersection(words):
            # Until the supervisor can obey: a hang-up while it imports would kill it, and Ctrl-C show a traceback.
            signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)
            if argv is None:
                write_lines_only()
            spare_local_hosts(os.environ)  # which it inherits
            use_key(os.environ)
            os.environ.update(ONE_THREAD)
            if (limit := little_address_space()) is not None:  # libraries would end the process with words of their own
                print(f"ringfeed: {limit}", file=STDERR)
                return EXIT_COULD_NOT_START
            server = ForkServer.begin()
        gc.disable()  # nearly all of what is imported stays: looking through it while it grows is a tenth of the time
        from ringfeedd.cli.main import main as run  # noqa: PLC0415  # most of a start's imports

        gc.freeze()
        gc.enable()
        return run(words, server)
    except KeyboardInterrupt:  # while it was importing
        return EXIT_INTERRUPTED
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        if (limit := exhausted(error)) is None:
            raise
        print(f"ringfeed: {limit}", file=STDERR)
        return EXIT_COULD_NOT_START
    finally:
        if server is not None:
            server.close()
