"""What holds for all tests: names of rings, nothing kept in the user's cache, and Ctrl-C as at a terminal."""

import os
import signal
import uuid

import pytest
from house import wipe

# A shell has its background jobs ignore Ctrl-C, and so would every trainer that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def ring():
    """A ring's name, or its prefix, that nobody else has; nothing is left under it."""
    name = f"t{uuid.uuid4().hex[:10]}"
    yield name
    wipe(name)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Daemons that are started with their defaults keep their listings with the tests' other files."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
