"""Every data plane that is installed here: the same tests hold for each."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

NO_PYCURL = pytest.mark.skipif(find_spec("pycurl") is None, reason="the extra curl is not installed")
DATA_PLANES = ["gcloud", pytest.param("curl", marks=NO_PYCURL)]
