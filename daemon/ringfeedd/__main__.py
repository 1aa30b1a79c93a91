"""``python -m ringfeedd`` is the command line."""

import sys

from ringfeedd.entry import main

sys.exit(main())
