"""Jobs that are stopped, or broken off, and begin again: real ranks, real signals, real workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import uuid

import pytest
from house import Daemon, Output, finish, trainer, write_folder

PAIRS = 40

JOB = """
import json, os, sys
from ringfeed.torch import RingDataset, RingLoader
ring, ends, start = sys.argv[1:]
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
loader = RingLoader(RingDataset(ring, batch_size=2, fields=("epoch", "positions"), start=start))
for epoch, positions in loader:
    row = json.dumps([attempt, rank, epoch, positions.tolist(), os.getpid()])
    os.write(1, f"{row}\\n".encode())  # whole, beside the other rank's
    if ends == "waits" and positions[0] >= 12:
        sys.stdin.read()
    if ends == "crashes" and rank == 1 and not attempt and positions[0] >= 12:
        os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    name = f"t{uuid.uuid4().hex[:10]}"
    folder = write_folder(tmp_path_factory.mktemp("set"), PAIRS)
    with Daemon(str(folder), "--size", "24x32", "--slots", "64", "--workers", "1", ring=name):
        yield f"{name}-train"


class Job:
    """A torchrun job of two ranks, which is its own process group."""

    def __init__(self, script, ring, port, *, ends="", start="auto", restarts=0):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command += ["--master-port", str(port)] if port else ["--standalone"]
        self.process = subprocess.Popen(
            [*command, "--max-restarts", str(restarts), str(script), ring, ends, start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )
        self.output = Output(self.process)

    def wait_for(self, batches):
        for _ in range(batches):
            self.output.wait_for("[")

    def stop(self, how):
        """Stop it by a signal to torchrun; ranks of a torchrun that is killed live on, unless they are killed too."""
        self.process.send_signal(signal.SIGKILL if how == "kill" else how)
        if how == "kill":
            for pid in {row[-1] for row in batches(self.output.lines)}:
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)

    def rows(self):
        """Wait for its end; [attempt, rank, epoch, positions, pid] of each batch."""
        assert self.process.wait(60) == 0, self.output.rest()
        return batches(self.output.rest().splitlines())


def batches(lines):
    return [json.loads(line) for line in lines if line.startswith("[")]


def check_whole(rows):
    """Both ranks have read one epoch, each its half, at whatever epoch."""
    assert sorted(position for _, _, _, positions, _ in rows for position in positions) == list(range(PAIRS))
    assert len({epoch for _, _, epoch, _, _ in rows}) == 1
    assert [len([row for row in rows if row[1] == rank]) for rank in (0, 1)] == 2 * [PAIRS // 4]


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "job.py"
    path.write_text(JOB)
    return path


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("how", "start"),
    [("kill", "auto"), slow("kill", "epoch"), slow(signal.SIGINT, "auto"), slow(signal.SIGTERM, "auto")],
)
def test_a_restarted_torchrun_job_begins_whole_together(ring, script, port, how, start):
    first = Job(script, ring, port, ends="waits", start=start)
    first.wait_for(7)
    first.stop(how)
    check_whole(Job(script, ring, port, start=start).rows())


@pytest.mark.slow
def test_a_job_begins_whole_despite_ranks_outliving_torchrun(ring, script, port):
    first = Job(script, ring, port, ends="waits")
    first.wait_for(7)
    first.stop(signal.SIGKILL)
    second = Job(script, ring, port)
    second.wait_for(1)
    first.process.stdin.close()
    check_whole(second.rows())


@pytest.mark.slow
def test_a_job_torchrun_restarts_begins_whole_together(ring, script):
    rows = Job(script, ring, port=0, ends="crashes", restarts=1).rows()
    check_whole([row for row in rows if row[0] == 1])


WORKERS = """
import sys
from torch.utils.data import DataLoader
from ringfeed.torch import RingDataset
dataset = RingDataset(sys.argv[1], batch_size=2, fields=("epoch", "positions"), drop_last=False)
loader = DataLoader(dataset, batch_size=None, num_workers=4)
def whole(expected):
    rows = [(epoch, position) for epoch, positions in loader for position in positions.tolist()]
    assert sorted(rows) == [(expected, position) for position in range(int(sys.argv[2]))], rows
whole(0)
for epoch, batches in ((1, 1), (3, 3)):
    for taken, _ in enumerate(loader, 1):
        if taken == batches:
            break
    whole(epoch + 1)
try:
    for _ in loader:
        raise KeyError("mine")
except KeyError:
    pass
whole(6)
"""


def test_plain_workers_read_whole_epochs_after_breaks(ring):
    finish(trainer(WORKERS, ring, PAIRS))
