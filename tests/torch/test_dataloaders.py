"""`get_async_dataloaders`: what was asked for comes, or a sentence; a daemon lives as long as a process needs it."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
from house import Daemon, finish, traces, trainer, wait_until, write_folder
from PIL import Image
from ring_fixtures import served_ring, turning

import ringfeed
from ringfeed.daemon import keep
from ringfeed.daemon import started as started_daemon
from ringfeed.daemon.shared import PREFIX, _Wanted
from ringfeed.shm import segment
from ringfeed.shm.layout import KEEP_LOCK_BYTE
from ringfeed.torch import RingDataset, get_async_dataloaders
from ringfeedd.supervisor.linger import LINGER_S, Need

PAIRS = 12
COMMON = {"size": "24x32", "fit": "resize", "slots": 16, "workers": 1, "catalog_cache": "off"}


@pytest.fixture
def folder(tmp_path):
    """Pairs with a second set of labels, whose values are all 200."""
    root = write_folder(tmp_path / "set", PAIRS)
    for label in root.glob("labels/**/*.png"):
        depth = root / "depth" / label.relative_to(root / "labels")
        depth.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(label) as picture:
            Image.new("L", picture.size, 200).save(depth)
    return root


def rings_of(loaders):
    return {name: loader.dataset.ring for name, loader in loaders.items()}


# Settings.

ASK_TWICE = """
import os, sys
from ringfeed.torch import get_async_dataloaders
def ask(**settings):
    loaders = get_async_dataloaders(sys.argv[1], 2, test_ratio=0.0, **{**COMMON, **settings})
    for image, label in loaders["train"]:
        rings.append(loaders["train"].dataset.ring)
        print(rings[-1], tuple(image.shape), tuple(label.shape), label.max().item())
        return loaders
rings = []
first = ask()
ask(labels="depth/{id}.png", label_mode="index")
ask(max_failed=0.5, slots=20)
ask(seed=1, size="48x64")
print("ended", *sorted({ring for ring in rings if not os.path.exists(f"/dev/shm/ringfeed.{ring}")}))
"""


def test_other_settings_than_a_daemons_get_another(folder):
    said = finish(trainer(f"COMMON = {COMMON!r}\n{ASK_TWICE}", folder)).splitlines()
    first, depth, again, larger = [line.split(" ", 1) for line in said if line.startswith(PREFIX)]
    assert first[1].startswith("(2, 3, 24, 32) (2, 3, 24, 32) ")
    assert depth[1] == "(2, 3, 24, 32) (2, 24, 32) 200"
    assert again == first, "what decides neither ids nor pixels nor order needs no other daemon"
    assert larger[1].startswith("(2, 3, 48, 64) ")
    assert len({first[0], depth[0], larger[0]}) == 3
    assert said[-1] == f"ended {depth[0]}", "one whose loaders are gone makes room"
    wait_until(lambda: not any(traces(ring) for ring in (first[0], depth[0], larger[0])))


class StartedProcess:
    """As a `Popen`, of a daemon that this process has started."""

    ended = False

    def terminate(self) -> None:
        self.ended = True

    def wait(self, _: float) -> int:
        return 0


def started(monkeypatch, name):
    """Have this process have started the daemon of a ring."""
    process = StartedProcess()
    running = started_daemon._Running(process, os.pipe()[1], os.getpid(), name)
    monkeypatch.setattr(started_daemon, "_RUNNING", [running])
    return process


def test_a_daemon_stays_open_while_datasets_may_read(monkeypatch):
    """Also before another thread's loaders are made, and for copies of a dataset."""
    with served_ring() as served:
        process, rings = started(monkeypatch, served.name), {"train": served.memory.descriptor}
        dataset = RingDataset(served.name, batch_size=2)
        dataset.daemon_use = use = started_daemon.Use()
        assert started_daemon.take(served.name, rings, use)
        del use
        duplicate = copy.deepcopy(dataset)
        del dataset
        started_daemon.end_unused()
        assert not process.ended
        del duplicate
        started_daemon.end_unused()
        assert process.ended
        assert not started_daemon.take(served.name, rings, started_daemon.Use()), "it is about to end"


def test_a_daemon_makes_no_room_during_reading(monkeypatch):
    with served_ring() as served, turning(served):
        process, rings = started(monkeypatch, served.name), {"train": served.memory.descriptor}
        assert started_daemon.take(served.name, rings, started_daemon.Use())
        with ringfeed.attach(served.name, batch_size=2):
            started_daemon.end_unused()
            assert not process.ended
    assert not process.ended


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seed": 1}, r"seed: 1 asked for, 0 served"),
        ({"label_mode": "rgb"}, r"label_mode: rgb asked for, index served"),
        ({"images": "images/{id}.jpg"}, r"images: .* asked for, .* served"),
        ({"exif_orientation": True}, r"exif_orientation: True asked for, False served"),
        ({"fit": "pad", "label_pad": 255}, r"fit: pad asked for, resize served; label_pad: 255 asked for, 0 served"),
        ({"max_pixels": 10**6, "order": "sequential"}, r"max_pixels: 1000000 asked .*; order: sequential asked"),
        ({"num_nodes": 2, "node_rank": 1}, r"num_nodes: 2 asked for, 1 served; node_rank: 1 asked for, 0 served"),
        ({"test_ratio": 0.25}, r"test_ratio: 0.25 asked for, 0.5 served"),
        ({"ring": "train", "size": (8, 8)}, r"get_async_dataloaders: size = \(8, 8\): must be"),
        ({"colour": "red"}, r"get_async_dataloaders: unrecognized setting colour"),
        ({"labels": "depth/{id"}, r"must hold \{id\} exactly once"),
    ],
)
def test_a_setting_that_is_not_served_is_named(operated, folder_of_operator, settings, told):
    with pytest.raises(ringfeed.RingfeedError, match=told):
        get_async_dataloaders(folder_of_operator, 2, **{"test_ratio": 0.5, **settings})


@pytest.fixture(scope="module")
def folder_of_operator(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), PAIRS)


@pytest.fixture(scope="module")
def operated(folder_of_operator):
    name = f"t{uuid.uuid4().hex[:10]}"
    arguments = ("--test-ratio", "0.5", "--slots", "16", "--size", "24x32", "--label-mode", "index", "--workers", "1")
    with Daemon(str(folder_of_operator), *arguments, ring=name):
        yield name


def test_defaults_come_from_an_operators_daemon(operated, folder_of_operator, monkeypatch):
    expected = {split: f"{operated}-{split}" for split in ("train", "test")}
    monkeypatch.chdir(folder_of_operator.parent)
    given = {"size": "24x32", "label_mode": "index", "seed": np.int64(0), "images": "images/{id}.jpg,.jpeg", "slots": 9}
    for root in (folder_of_operator, folder_of_operator.name, f"file://{folder_of_operator}/"):
        for settings in ({}, given, {"ring": operated}):
            assert rings_of(get_async_dataloaders(root, 2, test_ratio=0.5, **settings)) == expected


def ring_for(root, given=(), usual=()):
    return _Wanted.of(str(root), {"test_ratio": 0.0, **dict(given)}, dict(usual)).ring


def test_a_started_daemon_is_named_after_what_decides(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    ours = ring_for("data")
    spelled_otherwise = ("./data", "data/", tmp_path / "data", "link", f"file://{tmp_path}/data")
    assert {ring_for(root) for root in spelled_otherwise} == {ours}
    assert ring_for("data", {"seed": "0", "order": "shuffle", "slots": 7, "emulator": "localhost:1"}) == ours
    assert ring_for("data", {}, {"store_wait_s": 0}) == ours
    changes = [{"seed": 1}, {"size": "8x8"}, {"labels": "depth/{id}.png"}, {"test_ratio": 0.5}, {"fit": "native"}]
    assert len({ours, *(ring_for("data", change) for change in changes)}) == 1 + len(changes)
    (tmp_path / "other/data").mkdir(parents=True)
    monkeypatch.chdir("other")
    assert ring_for("data") != ours


# How long a daemon lives.

JOB = """
import sys
from ringfeed.torch import get_async_dataloaders
loaders = get_async_dataloaders(sys.argv[1], 2, test_ratio=0.0, num_workers=int(sys.argv[2]), **COMMON)
print(loaders["train"].dataset.ring, flush=True)
sys.stdin.readline()
for epoch in range(2):
    print("pairs", sum(len(image) for image, label in loaders["train"]), flush=True)
sys.stdin.readline()
"""


def job(folder, workers=0):
    process = trainer(f"COMMON = {COMMON!r}\n{JOB}", folder, workers)
    return process, process.stdout.readline().strip()


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.parametrize(
    ("end", "workers"),
    [
        ("is killed", 2),
        pytest.param("ends", 0, marks=pytest.mark.slow),
        pytest.param("is interrupted with its group", 0, marks=pytest.mark.slow),
    ],
)
def test_a_borrowed_daemon_outlives_its_starters_job(folder, end, workers):
    first = trainer(f"import os; os.setsid()\nCOMMON = {COMMON!r}\n{JOB}", folder, 0)
    ring = first.stdout.readline().strip()
    second, borrowed = job(folder, workers)
    try:
        assert ring.startswith(PREFIX)
        assert borrowed == ring
        if end == "ends":
            finish_all(first)
        elif end == "is killed":
            first.kill()
        else:
            os.killpg(first.pid, signal.SIGINT)
        first.communicate(timeout=30)
        time.sleep(LINGER_S + 0.5)  # the second has not attached yet, and has the daemon kept
        go(second)
        assert [second.stdout.readline() for _ in range(2)] == [f"pairs {PAIRS}\n"] * 2
        second.kill()
        second.communicate()
        wait_until(lambda: not traces(ring), timeout_s=30)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def finish_all(process):
    go(process)
    go(process)
    finish(process)


def test_an_ended_job_ends_its_daemon_at_once(folder):
    process, ring = job(folder)
    assert traces(ring)
    finish_all(process)
    assert traces(ring) == []


def test_ranks_that_begin_together_share_one_daemon(folder):
    jobs = [trainer(f"COMMON = {COMMON!r}\n{JOB}", folder, 0) for _ in range(2)]
    rings = {process.stdout.readline().strip() for process in jobs}
    for process in jobs:
        finish_all(process)
    (ring,) = rings
    wait_until(lambda: not traces(ring), timeout_s=30)


def test_an_orphaned_daemon_ends_when_it_is_unused():
    with served_ring() as served:
        need, ring = Need(), [served.memory]
        assert not need.ended(ring, now=0.0), "a reader may be just about to attach"
        fd = segment.open_lock(served.memory.descriptor.control)
        assert segment.try_lock(fd, 1)
        assert not need.ended(ring, now=10.0), "it has a reader"
        segment.unlock(fd, 1)
        assert not need.ended(ring, now=10.0 + LINGER_S / 2)
        assert segment.try_share(fd, KEEP_LOCK_BYTE)
        assert not need.ended(ring, now=20.0), "a process keeps it"
        segment.unlock(fd, KEEP_LOCK_BYTE)
        assert need.ended(ring, now=20.0)
        assert not segment.try_share(fd, KEEP_LOCK_BYTE), "too late"
        os.close(fd)


def test_a_stopping_daemon_cannot_be_kept():
    with served_ring() as served:
        descriptor = served.memory.descriptor
        assert keep.keep([descriptor])
        assert keep.keep([descriptor]), "again is no more"
        need = Need()
        need.ended([served.memory], now=0.0)
        assert not need.ended([served.memory], now=10.0)
        assert keep.give_up([descriptor]), "as the process that started it does at its end"
        assert not keep.keep([descriptor])


def test_a_fork_keeps_nothing(folder):
    code = (
        "import os, sys\nfrom ringfeed.daemon import keep\nfrom ringfeed.torch import get_async_dataloaders\n"
        f"loaders = get_async_dataloaders(sys.argv[1], 2, test_ratio=0.0, **{COMMON!r})\n"
        "if not os.fork():\n"
        "    print(loaders['train'].dataset.ring, len(keep._KEPT), flush=True)\n    sys.stdin.readline()\n"
        "os._exit(0)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    ring, kept = process.stdout.readline().split()
    assert kept == "0"
    assert process.wait(30) == 0
    wait_until(lambda: not traces(ring), timeout_s=30)  # while the fork still lives
    process.communicate("end\n", timeout=30)
