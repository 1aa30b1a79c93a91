"""What lies in /dev/shm, and what does not any more: removed under a live ring, left by the dead, planted by others."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path

import pytest
from house import SHM, Daemon, Output, finish, traces, trainer, wait_until, with_its_own_shm, write_folder
from ring_fixtures import make_descriptor, served_ring, small_geometry, turning

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.errors import NotTrustedError
from ringfeed.reader import attachment
from ringfeed.shm import segment
from ringfeed.shm.layout import Header, plan_geometry
from ringfeedd.cli.clean import clean
from ringfeedd.errors import EXIT_CRASH, StartError
from ringfeedd.recovery.cleanup import clear_leavings, foreign_files
from ringfeedd.shm.lock import SingletonLock
from ringfeedd.shm.memory import Access, RingMemory, reserved_bytes

PAIRS = 24


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


SOME = [
    pytest.param(pattern, marks=pytest.mark.slow) for pattern in ("*.ctl", "*.lane.3", "ringfeed.*-train", "*.lock")
]


@pytest.mark.parametrize("pattern", ["*", *SOME])
def test_trainers_survive_the_removal_of_ring_files(folder, ring, pattern):
    """The daemon ends with a sentence; the next one, as a service manager starts it, serves every next pair."""
    with serve(folder, ring) as daemon:
        trainers = [trainer(BUSY, f"{ring}-train", group) for group in "AB"]
        outputs = [Output(process) for process in trainers]
        for output in outputs:
            output.wait_for("in")
        for process in trainers:
            process.stdin.write("go\n")
            process.stdin.flush()
        for output in outputs:
            output.wait_for("busy")
        for path in SHM.glob(pattern):
            if ring in path.name:
                path.unlink()
        daemon.output.wait_for("ringfeed: another process removed")
        assert daemon.process.wait(60) == EXIT_CRASH
        assert not set(traces(ring)) - {f"ringfeed.{ring}-train.lock"}
    with serve(folder, ring):
        trainers[0].stdin.close()
        wait_until(lambda: [lane.group for lane in ring_status(f"{ring}-train").consumers] == ["A"])
        trainers[1].stdin.close()  # its long step ends when the other is back already, and waits for it
        for output, process in zip(outputs, trainers, strict=True):
            output.wait_for("exactly")
            assert process.wait(60) == 0
    assert traces(ring) == []


def test_each_removed_or_replaced_file_is_missed():
    with served_ring(lanes=2) as served:
        assert served.memory.removed() == []
        for name in traces(served.name):
            path = SHM / name
            path.rename(f"{path}.away")
            assert served.memory.removed() == [name]
            if "sem." not in name:
                path.write_bytes(b"another one")
                assert served.memory.removed() == [name]
            Path(f"{path}.away").rename(path)
        assert served.memory.removed() == []


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EACCES])
def test_a_file_beyond_inspection_counts_as_present(code, monkeypatch):
    def lstat(_: Path) -> os.stat_result:
        raise OSError(code, os.strerror(code))

    with served_ring(lanes=2) as served:
        lock = SingletonLock(served.name, Access())
        monkeypatch.setattr(Path, "lstat", lstat)
        assert served.memory.removed() == []
        assert lock.held
        monkeypatch.undo()
        lock.release()


def test_a_removed_lock_is_not_held(ring):
    """And does not take its successor's file with it."""
    first = SingletonLock(ring, Access())
    assert first.held
    (SHM / f"ringfeed.{ring}.lock").unlink()
    assert not first.held
    second = SingletonLock(ring, Access())
    first.release()
    assert second.held
    second.release()
    assert traces(ring) == []


# Somebody else's files under our names.


def symbolic_link(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")


def fifo(path, _tmp_path):
    os.mkfifo(path)


def folder_of_its_own(path, _tmp_path):
    path.mkdir()


def unix_socket(path, _tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def another_users(path, _tmp_path):
    path.write_bytes(b"theirs")
    try:
        os.chown(path, 65534, 65534)
    except PermissionError:
        pytest.skip("this user cannot make another one's files")


PLANTED = [symbolic_link, fifo, folder_of_its_own, unix_socket, another_users]
GEN = "fedcba9876543210"


@pytest.fixture(params=PLANTED, ids=lambda plant: plant.__name__)
def plant(request, ring, tmp_path):
    planted = []

    def plant(name):
        path = SHM / name
        request.param(path, tmp_path)
        planted.append(path)
        return path

    yield plant
    for path in planted:
        assert os.path.lexists(path), "what somebody else put there is not removed"
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def leave_dead(ring):
    """What a killed daemon leaves: the segments and doorbells of a ring with one lane."""
    dead = RingMemory(make_descriptor(ring, small_geometry(lanes=1)), Access())
    dead.announce()
    os.close(dead._lock_fd)
    os.close(dead.data_fd)
    return traces(ring)


OWNERSHIP = r"\(mode \d{4}, owner \d+, group \d+\)"


@pytest.mark.parametrize("name", ["ringfeed.{}", "ringfeed.{}.errors"])
def test_a_planted_fixed_name_is_refused(ring, plant, name):
    """Nothing is removed."""
    leave_dead(ring)
    (SHM / f"ringfeed.{ring}").unlink()
    path = plant(name.format(ring))
    before = traces(ring)
    with pytest.raises(StartError, match=rf"{path} {OWNERSHIP} (is not a regular file|belongs to another user)"):
        clear_leavings(ring)
    said, well = clean([ring], force=True)
    assert not well
    assert str(path) in said[0]
    assert traces(ring) == before


@pytest.mark.parametrize(
    "name", [f"ringfeed.{{}}.{GEN}.{kind}" for kind in ("ctl", "data", "former")] + [f"sem.ringfeed.{{}}.{GEN}.space"]
)
def test_a_planted_generations_name_is_skipped(ring, plant, name):
    left = leave_dead(ring)
    path = plant(name.format(ring))
    assert foreign_files(ring)
    assert sorted(clear_leavings(ring)) == left
    assert traces(ring) == [path.name]
    assert f"no daemon of this user made {path} (mode" in foreign_files(ring)
    said, well = clean([ring], force=True)
    assert not well
    assert str(path) in said[-1]


@pytest.mark.parametrize("kind", ["ctl", "data", "draft", "former"])
@pytest.mark.parametrize(("content", "mode"), [(b"", 0o600), (b"x" * 8192, 0o600), (b"", 0o644), (b"x" * 8192, 0o644)])
def test_files_of_other_origin_are_not_removed(ring, kind, content, mode):
    """Files that no daemon can have made."""
    path = SHM / f"ringfeed.{ring}.{GEN}.{kind}"
    path.write_bytes(content)
    path.chmod(mode)
    assert clear_leavings(ring) == []
    assert path.name in foreign_files(ring)
    assert traces(ring) == [path.name]


@pytest.mark.parametrize("name", ["ringfeed.{}", "ringfeed.{}.errors"])
@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, b'{"ring": "another", "generation": "0123456789abcdef"}', b"[" * 9999]
)
def test_an_unknown_fixed_name_stops_the_start(ring, name, content):
    """A file that no daemon wrote."""
    path = SHM / name.format(ring)
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StartError, match=rf"{path} {OWNERSHIP} is not what a daemon of ring '{ring}' writes there"):
        clear_leavings(ring)
    assert path.read_bytes() == content


def test_a_dead_generation_goes_despite_damage(ring):
    """Its control segment was damaged."""
    left = leave_dead(ring)
    (control,) = (name for name in left if name.endswith(".ctl"))
    os.truncate(SHM / control, 0)  # as a member of the ring's group can
    assert sorted(clear_leavings(ring)) == left


def test_a_previous_descriptor_is_read_within_a_bound(ring):
    """Whatever its size."""
    path = SHM / f"ringfeed.{ring}.{GEN}.former"
    with path.open("wb") as file:
        file.truncate(18 << 30)
    path.chmod(0o600)
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
    script = (
        limited + "from ringfeedd.recovery.predecessor import read_predecessors; print(read_predecessors(sys.argv[1]))"
    )
    assert finish(trainer(script, ring)).strip() == "[]"


def test_a_planted_lock_stops_the_start(ring, plant):
    path = plant(f"ringfeed.{ring}.lock")
    with pytest.raises(StartError, match=str(path)):
        SingletonLock(ring, Access())


def test_a_lock_file_with_bytes_is_foreign(ring):
    """It is not taken for a daemon's."""
    path = SHM / f"ringfeed.{ring}.lock"
    path.write_bytes(b"mine")
    path.chmod(0o600)
    with pytest.raises(StartError, match=rf"{path} {OWNERSHIP} holds 4 bytes"):
        SingletonLock(ring, Access())
    assert path.read_bytes() == b"mine"


def test_a_planted_descriptor_is_neither_trusted_nor_awaited(ring, plant):
    """A trainer does not wait for the other end of a pipe."""
    path = plant(f"ringfeed.{ring}")
    with pytest.raises(NotTrustedError, match=rf"{path} {OWNERSHIP} is"):
        ringfeed.attach(ring, batch_size=2)


def test_a_daemon_names_planted_files_and_leaves_them(ring, folder, tmp_path):
    (SHM / f"ringfeed.{ring}-train.{GEN}.ctl").symlink_to(tmp_path)
    daemon = serve(folder, ring).start()
    daemon.output.wait_for("ready")
    assert daemon.stop() == 0
    said = [line for line in daemon.output.rest().splitlines() if GEN in line]
    assert len(said) == 1
    assert re.search(rf"no daemon of this user made .*{GEN}\.ctl {OWNERSHIP}, under names", said[0])
    assert traces(ring) == [f"ringfeed.{ring}-train.{GEN}.ctl"]


# Segments that are not what they say.


@pytest.mark.parametrize("part", ["control", "data"])
@pytest.mark.parametrize("size", [0, 4096, -4096, 4096 << 10])
def test_a_segments_wrong_size_is_a_sentence(part, size):
    """Not a SIGBUS: its size differs from what the descriptor says."""
    with served_ring() as served:
        path = segment.shm_path(getattr(served.memory.descriptor, part))
        whole = path.stat().st_size
        os.truncate(path, whole + size if size < 0 else size)
        with pytest.raises(NotTrustedError, match=f"{path}.* size"):
            ringfeed.attach(served.name, batch_size=2)
        os.truncate(path, whole)


@pytest.mark.parametrize("word", [Header.MAGIC, Header.LAYOUT_VERSION, Header.GENERATION, Header.DATA_BYTES])
def test_a_header_unlike_its_descriptor_is_a_sentence(word):
    with served_ring() as served:
        served.memory._words[word >> 3] ^= 1
        with pytest.raises(NotTrustedError, match="its header differs from the descriptor; restart the daemon"):
            ringfeed.attach(served.name, batch_size=2)


@pytest.mark.parametrize("bell", ["space", "lane.0"])
def test_a_doorbell_that_is_none_is_a_sentence(bell):
    with served_ring() as served:
        path = SHM / f"sem.ringfeed.{served.name}.{served.memory.descriptor.generation}.{bell}"
        path.unlink()
        path.write_bytes(b"no semaphore")
        story = "import sys, ringfeed\nringfeed.attach(sys.argv[1], batch_size=2)"
        said, _ = trainer(story, served.name).communicate(timeout=20)
        sentence = f"{path} is not a semaphore; restart the daemon"
        assert said.splitlines()[-1] == f"ringfeed.errors.NotTrustedError: {sentence}"


def test_a_reader_without_a_lane_learns_the_limit(monkeypatch):
    """And how to raise it."""
    monkeypatch.setattr(attachment, "FREE_LANE_TIMEOUT_S", 0.1)
    with served_ring(lanes=2) as served, turning(served):
        with ringfeed.attach(served.name, batch_size=2), ringfeed.attach(served.name, batch_size=2):
            with pytest.raises(ringfeed.AttachRefusedError, match=r"All 2 lanes of ring .* raise `lanes`"):
                ringfeed.attach(served.name, batch_size=2)
            assert len(ring_status(served.name).consumers) == 2
        wait_until(lambda: ring_status(served.name).consumers == [])
        ringfeed.attach(served.name, batch_size=2).close()


# A full /dev/shm.

STARTING = """
import re, subprocess, sys
from house import Daemon, traces
says = r"ringfeed: .*r-train.* (needs \\d+ bytes .*, and \\d+ bytes .* are free; .*|in /dev/shm: No space left .*)\\n"
for option in sys.argv[2:]:
    subprocess.run(["mount", "-o", f"remount,{option}", "/dev/shm"], check=True)
    daemon = Daemon(sys.argv[1], "--size", "24x32", "--slots", "32", "--lanes", "8", "--workers", "1", ring="r")
    if option != sys.argv[-1]:
        done = subprocess.run(daemon.command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, traces("r")) == (3, []), (done, traces("r"))
        assert re.fullmatch(says, done.stderr), done.stderr
    else:
        with daemon:
            pass
print("well")
"""

FILLED_LATER = """
import os, sys, ringfeed
from house import Daemon, SHM
with Daemon(sys.argv[1], "--size", "24x32", "--slots", "32", "--workers", "1", ring="r") as daemon:
    with (SHM / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs("/dev/shm").f_bavail * 4096)
    assert os.statvfs("/dev/shm").f_bavail == 0
    with ringfeed.attach("r-train", batch_size=4) as reader:
        for epoch in range(3):
            assert sum(len(batch) for batch in reader) == 24
print("well")
"""


@pytest.mark.slow
def test_too_small_shared_memory_is_one_sentence(folder):
    """By any amount, before anything is served."""
    image = label = 32 * 24 * 32 * 3
    geometry = plan_geometry(slots=32, lanes=8, image_row=(24, 32, 3), label_row=(24, 32, 3), label_dtype="uint8")
    assert geometry.data_bytes == image + label
    enough = reserved_bytes(geometry)
    # the file system's own root takes a page
    sizes = [f"size={enough + more}" for more in (-32_768, 0, 4096)]
    assert with_its_own_shm("size=64m", STARTING, folder, *sizes).endswith("well\n")


def test_shared_memory_that_fills_up_stops_no_process(folder):
    """Neither the readers nor a clean stop of the daemon."""
    assert with_its_own_shm("size=2m", FILLED_LATER, folder).endswith("well\n")


@pytest.mark.slow
def test_a_shm_without_inodes_left_is_one_sentence(folder):
    inodes = [f"nr_inodes={number}" for number in (5, 10, 100)]
    assert with_its_own_shm("size=64m", STARTING, folder, *inodes).endswith("well\n")
