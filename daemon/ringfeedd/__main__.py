"""``python -m ringfeedd`` is the command line."""

import sys

from ringfeedd.cli.entry import main

sys.exit(main())
