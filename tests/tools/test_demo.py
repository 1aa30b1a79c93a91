"""The demo as a whole: it ends well, and whatever ends it early leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gcp_storage_emulator")
pytest.importorskip("skimage")
pytest.importorskip("torch")

from ringfeedd.demo import run, run_demo
from ringfeedd.demo.run import SERVED_RING, leavings


def processes_of(folder):
    """Pids of processes whose command line or environment names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                seen = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in seen:
                found.append(int(entry.name))
    return found


@pytest.fixture
def fake_ringfeed(tmp_path, monkeypatch):
    """Stands in for the `ringfeed` command: runs a shell script instead."""

    def make(script):
        path = tmp_path / "ringfeed"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(run, "_executable", lambda: str(path))

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return make


@pytest.mark.parametrize("figures", [(5, 1, 1), (11, 1, 2), (300, 0, 2), (300, 1, 0), (300, 1, -1)])
def test_impossible_demo_figures_are_a_usage_error(tmp_path, capsys, figures):
    assert run_demo(*figures, out=tmp_path / "out") == 2
    assert "make no demo" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failing_daemon_ends_the_demo(tmp_path, capsys, fake_ringfeed):
    """With the daemon's last lines."""
    fake_ringfeed("echo '/dev/shm is too small'; exit 3")
    assert run_demo(6, 1, 1, out=tmp_path / "out") == 1
    complaint = capsys.readouterr().err
    assert "demo: the daemon ended too early (exit code 3); it said last:\n  | /dev/shm is too small" in complaint
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob("ringfeed-demo-*")) == []
    assert processes_of(tmp_path) == []


def test_kept_logs_stay_and_are_named(tmp_path, capsys, fake_ringfeed):
    fake_ringfeed("exit 3")
    assert run_demo(6, 1, 1, out=tmp_path / "out", keep=True) == 1
    (work,) = tmp_path.glob("ringfeed-demo-*")
    assert str(work) in capsys.readouterr().out
    assert {"emulator.log", "daemon.log"} <= {path.name for path in work.iterdir()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_every_process_of_the_demo(tmp_path, number):
    # The stand-in never says that it is ready, and does not end on SIGTERM either.
    fake = tmp_path / "ringfeed"
    fake.write_text("#!/bin/sh\ntrap '' TERM\necho listing\nwhile :; do sleep 1; done\n")
    fake.chmod(0o755)
    story = (
        "import pathlib, sys\n"
        "from ringfeedd.demo import run, run_demo\n"
        f"run._executable = lambda: {str(fake)!r}\n"
        "run.Child.stop.__kwdefaults__['timeout_s'] = 0.2\n"
        f"sys.exit(run_demo(6, 1, 1, out=pathlib.Path({str(tmp_path)!r})))\n"
    )
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", story], env=environ, stderr=subprocess.PIPE, text=True) as demo:
        while not any(b"listing" in log.read_bytes() for log in tmp_path.glob("ringfeed-demo-*/daemon.log")):
            assert demo.poll() is None
            os.sched_yield()
        demo.send_signal(number)
        _out, complaint = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "interrupted; every process of the demo was stopped" in complaint
    assert processes_of(tmp_path) == []
    assert list(tmp_path.glob("ringfeed-demo-*")) == []


def test_only_the_rings_own_names_count_as_leftovers(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SHARED_MEMORY", tmp_path)
    for name in ("ringfeed.demo-train.ab12.ctl", "sem.ringfeed.demo-train.ab12.space", "ringfeed.train.lock", "other"):
        (tmp_path / name).touch()
    assert leavings("demo-train") == ["ringfeed.demo-train.ab12.ctl", "sem.ringfeed.demo-train.ab12.space"]


@pytest.mark.slow
def test_the_whole_demo_ends_well_and_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "ringfeedd", "demo", "--pairs", "30", "--epochs", "2", "--out", str(tmp_path)]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    assert "trained     48 pairs" in done.stdout  # 2 rounds of 12 pairs in each of 2 epochs; 6 pairs dropped
    assert (tmp_path / "pairs-from-the-ring.png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("ringfeed-demo-*")) == []
    assert leavings(SERVED_RING) == []
    assert processes_of(tmp_path) == []
