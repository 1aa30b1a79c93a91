"""The daemon, with workers that do nothing. Takes the command line of `ringfeed`."""

from __future__ import annotations

import sys

from ringfeedd.cli.main import main
from ringfeedd.worker import pool

if __name__ == "__main__":
    pool.WORKER_MODULE = "ringfeedd.bench.idle_worker"  # the seam that is left for this
    sys.exit(main())
