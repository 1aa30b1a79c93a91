"""``python -m ringfeedd`` is the command line."""

import sys

from ringfeedd.main import main

sys.exit(main())
