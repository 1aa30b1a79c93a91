"""What lies in /dev/shm, and what does not any more: removed under a live ring, left by the dead, planted by others."""

from __future__ import annotations

import uuid

import pytest
from house import SHM, Daemon, Output, traces, trainer, wait_until, wipe, write_folder

from ringfeed.status import ring_status

PAIRS = 24


@pytest.fixture
def ring():
    name = f"t{uuid.uuid4().hex[:10]}"
    yield name
    wipe(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


def serve(folder, ring, *arguments):
    return Daemon(str(folder), "--size", "24x32", "--slots", "32", "--workers", "1", *arguments, ring=ring)


# Removed under a live ring.

BUSY = """
import sys, ringfeed
with ringfeed.attach(sys.argv[1], batch_size=4, group=sys.argv[2]) as reader:
    seen = []
    print("in", flush=True)
    sys.stdin.readline()
    for epoch in range(6):
        for batch in reader:
            seen += [(batch.epoch, int(position)) for position in batch.positions]
            del batch
            if len(seen) == 40:
                print("busy", flush=True)
                sys.stdin.readline()  # in a long step
assert seen == [(epoch, position) for epoch in range(6) for position in range(24)], seen
print("exactly")
"""


@pytest.mark.parametrize("pattern", ["*", "*.ctl", "*.lane.3", "ringfeed.*-train", "*.lock"])
def test_files_removed_under_a_live_ring_are_made_anew_and_trainers_go_on_at_their_next_pair(folder, ring, pattern):
    with serve(folder, ring) as daemon:
        before = ring_status(f"{ring}-train").daemon_pid
        trainers = [trainer(BUSY, f"{ring}-train", group) for group in "AB"]
        outputs = [Output(process) for process in trainers]
        for output in outputs:
            output.wait_for("in")
        for process in trainers:
            process.stdin.write("go\n")
            process.stdin.flush()
        for output in outputs:
            output.wait_for("busy")
        former = set(traces(ring))
        for path in SHM.glob(pattern):
            if ring in path.name:
                path.unlink()
        daemon.output.wait_for("ready")
        assert not (former & set(traces(ring))) - {f"ringfeed.{ring}-train", f"ringfeed.{ring}-train.lock"}
        trainers[0].stdin.close()
        wait_until(lambda: [lane.group for lane in ring_status(f"{ring}-train").consumers] == ["A"])
        trainers[1].stdin.close()  # its long step ends when the other is back already, and waits for it
        for output, process in zip(outputs, trainers, strict=True):
            output.wait_for("exactly")
            assert process.wait(10) == 0
        assert ring_status(f"{ring}-train").daemon_pid == before
    assert "somebody removed" in "".join(daemon.output.lines)
    assert traces(ring) == []
