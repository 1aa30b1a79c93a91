"""The daemon, with workers that do nothing. Takes the command line of `ringfeed`."""

from __future__ import annotations

import sys

from ringfeedd.cli.main import main

if __name__ == "__main__":
    sys.exit(main(worker_module="ringfeedd.bench.idle_worker"))
