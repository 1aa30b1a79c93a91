"""What holds for all tests: nothing is kept in the user's cache, and Ctrl-C is what it is at a terminal."""

import os
import signal

import pytest

# A shell has its background jobs ignore Ctrl-C, and so would every trainer that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Daemons that are started with their defaults keep their listings with the tests' other files."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
