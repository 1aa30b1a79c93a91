"""`docs/examples/reader.c`, written from `shm_layout.md` alone, reads the same ids, order and pixels as `ringfeed`."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from house import Daemon, wait_until, write_folder
from ring_fixtures import fake_revision, served_ring, turning

import ringfeed
from ringfeed.shm.layout import RingState, State, plan_geometry

SOURCE = Path(__file__).parents[2] / "docs/examples/reader.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The reader, compiled."""
    path = tmp_path_factory.mktemp("reader") / "reader"
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([COMPILER, *flags, "-o", path, SOURCE], check=True)
    return path


def run(program: Path, ring: str, *, batch_size: int = 4, epochs: int = 1) -> subprocess.CompletedProcess[str]:
    command = [program, ring, str(batch_size), str(epochs)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def read_by(program: Path, ring: str, **options: int) -> list[str]:
    done = run(program, ring, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def read_by_us(ring: str, *, batch_size: int, epochs: int) -> list[str]:
    """What `ringfeed` reads, as the C reader prints it."""
    lines = []
    with ringfeed.attach(ring, batch_size=batch_size, start="epoch", drop_last=False) as reader:
        for _ in range(epochs):
            for batch in reader:
                for i, pair_id in enumerate(batch.ids):
                    pixels = fnv1a(batch.image[i].tobytes() + batch.label[i].tobytes())
                    lines.append(f"{batch.epoch} {batch.positions[i]} {int(batch.valid[i])} {pixels:016x} {pair_id}")
    return lines


@cache
def fnv1a(data: bytes) -> int:
    """FNV-1a of 64 bits."""
    found = 14695981039346656037
    for byte in data:
        found = (found ^ byte) * 1099511628211 & 2**64 - 1
    return found


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_the_c_reader_reads_as_ours(program, batch_size):
    with served_ring() as served, turning(served):
        lines = read_by(program, served.name, batch_size=batch_size, epochs=2)
        assert len(lines) == 100
        assert lines == read_by_us(served.name, batch_size=batch_size, epochs=2)


def test_the_c_reader_reads_an_unmirrored_ring(program):
    geometry = plan_geometry(slots=11, lanes=2, image_row=(16, 31, 3), label_row=(16, 31), label_dtype="uint16")
    assert not geometry.mirrored
    with served_ring(geometry=geometry) as served, turning(served):
        assert read_by(program, served.name, epochs=2) == read_by_us(served.name, batch_size=4, epochs=2)


def test_the_c_reader_reads_on_through_a_refresh(program, tmp_path):
    with served_ring() as served, (tmp_path / "lines").open("w+") as output:
        reading = subprocess.Popen([program, served.name, "4", "5"], stdout=output)
        refreshed = False
        while reading.poll() is None:
            served.turn(0.01)
            if not refreshed and served.service.ring.floor > 60:
                served.service.offer(fake_revision(60, fingerprint="a" * 32))
                refreshed = True
        output.seek(0)
        read = [line.split() for line in output]
    assert reading.returncode == 0
    lengths = [sum(line[0] == str(epoch) for line in read) for epoch in range(5)]
    assert (lengths[0], lengths[-1]) == (50, 60)
    assert lengths == sorted(lengths)
    expected = [[str(epoch), str(i), f"größe/{1000 + i}"] for epoch in range(5) for i in range(lengths[epoch])]
    assert [[line[0], line[1], line[4]] for line in read] == expected


def test_a_killed_c_reader_frees_its_lane(program):
    with served_ring(lanes=1) as served, turning(served):
        killed = subprocess.Popen([program, served.name, "4", "1000000"], stdout=subprocess.PIPE)
        killed.stdout.read(1)
        killed.kill()
        killed.communicate()
        wait_until(lambda: len(served.service.groups) == 0)
        assert served.service._lanes.lane_deaths == 1
        assert len(read_by(program, served.name)) == 50


def test_the_c_reader_says_why_it_ends(program):
    with served_ring() as served, turning(served):
        refused = run(program, served.name, batch_size=9)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "batch_size=9 with world_size=1 needs a ring of at least 18 slots" in refused.stderr
        stopped = subprocess.Popen([program, served.name, "4", "1000000"], stdout=subprocess.PIPE, stderr=-1)
        stopped.stdout.read(1)
        served.memory.set(State.STATE, RingState.STOPPING)
        served.memory.ring_all()
        _, said = stopped.communicate(timeout=20)
        assert (stopped.returncode, b"is gone" in said) == (3, True)
    assert run(program, "no-such-ring").returncode == 3


def test_the_c_reader_continues_with_the_next_daemon(program, ring, tmp_path):
    """It reads until its daemon ends."""
    root = write_folder(tmp_path, 20)
    settings = ["--size", "24x32", "--slots", "16", "--workers", 1, "--http", "off"]
    with Daemon(str(root), *settings, ring=ring) as daemon:
        reading = subprocess.Popen([program, f"{ring}-train", "4", "1000000"], stdout=subprocess.PIPE, stderr=-1)
        reading.stdout.read(1)
        daemon.process.kill()
        _, said = reading.communicate(timeout=20)
        assert (reading.returncode, b"is gone" in said) == (3, True)
        daemon.process.wait()
        daemon.start().output.wait_for("ready")
        assert len(read_by(program, f"{ring}-train")) == 20


def test_the_c_reader_reads_a_daemons_native_pixels(program, ring, tmp_path):
    root = write_folder(tmp_path, 20)
    settings = ["--fit", "native", "--size", "120x160", "--label-mode", "index", "--slots", "16", "--seed", 2**64 - 1]
    with Daemon(str(root), *settings, "--workers", 1, "--http", "off", ring=ring):
        lines = read_by(program, f"{ring}-train", batch_size=3, epochs=2)
        assert len(lines) == 40
        assert lines == read_by_us(f"{ring}-train", batch_size=3, epochs=2)
