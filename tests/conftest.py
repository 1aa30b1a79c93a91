"""What holds for all tests: names of rings, nothing left in shared memory or caches, and Ctrl-C as at a terminal."""

import os
import signal
import time
import uuid

import pytest
from house import SHM, wipe
from hypothesis import HealthCheck, settings

LEAVE_S = 30.0
"""For daemons that end by themselves once no process needs them."""

# Whether a property holds does not depend on how fast the machine is.
settings.register_profile("any pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any pace")

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


@pytest.fixture(autouse=True, scope="module")
def _leaves_nothing_in_shared_memory(request):
    """Fail the last test of a file that leaves a ring's names behind, apart from other processes' of the test run."""
    before = rings_files(request)
    yield
    deadline = time.monotonic() + LEAVE_S
    while (left := sorted(rings_files(request) - before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, f"{request.node.name} leaves {', '.join(left)} in {SHM}"


def rings_files(request):
    """The names in /dev/shm that belong to rings of this process's tests, as far as that can be told."""
    names = {path.name for path in SHM.iterdir() if "ringfeed." in path.name}
    alone = not hasattr(request.config, "workerinput")
    return names if alone else {name for name in names if f".test-{os.getpid()}-" in name}
