"""Shared-memory files: exact modes, reserved whole or not at all, mapped twice in a row, locked by who lives."""

from __future__ import annotations

import gc
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_fixtures import make_descriptor, small_geometry, unique_ring_name

from ringfeed.errors import NotTrustedError
from ringfeed.shm import segment
from ringfeed.shm.layout import PAGE_BYTES
from ringfeed.shm.semaphore import Doorbell, semaphore_path, unlink_doorbell
from ringfeedd.errors import AlreadyRunningError, StartError
from ringfeedd.recovery.cleanup import clear_leavings
from ringfeedd.shm.lock import SingletonLock
from ringfeedd.shm.memory import Access, RingMemory, free_bytes, reserved_bytes


@pytest.fixture
def name():
    name = unique_ring_name()
    yield name
    for path in leavings(name):
        path.unlink()


def leavings(name: str) -> list[Path]:
    return sorted(Path("/dev/shm").glob(f"*{name}*"))


@pytest.fixture(params=[0o000, 0o077, 0o777], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("wanted", [0o600, 0o660])
def test_files_and_semaphores_have_their_exact_mode(name, umask, wanted):
    """Whatever the umask."""
    os.close(segment.create(name, 10, mode=wanted, gid=os.getgid()))
    bell = f"/{name}.space"
    Doorbell.create(bell, mode=wanted, gid=os.getgid()).close()
    assert (mode(segment.shm_path(name)), mode(semaphore_path(bell))) == (wanted, wanted)
    unlink_doorbell(bell)


def test_a_ring_has_its_modes_and_unlinks_fully(name, umask):
    memory = RingMemory(make_descriptor(name, small_geometry(lanes=2)), Access(0o660, os.getgid()))
    memory.announce()
    modes = {path.name.split(memory.descriptor.generation)[-1]: mode(path) for path in leavings(name)}
    control = {".ctl", ".data", ".space", ".lane.0", ".lane.1"}
    assert modes == dict.fromkeys(control, 0o660) | {f"ringfeed.{name}": 0o640, ".data": 0o640}
    memory.unlink()
    assert leavings(name) == []


def test_a_file_too_large_leaves_nothing_behind(name):
    with pytest.raises(OSError, match="No space left on device"):
        segment.create(name, 1 << 42, mode=0o600, gid=-1)  # more than the whole of it, which is refused at once
    assert leavings(name) == []


@pytest.fixture
def tiny_shm(tmp_path, monkeypatch):
    """A shared-memory file system of 64 KiB."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:  # noqa: PLW1510
        pytest.skip("this user may not mount a file system")
    monkeypatch.setattr(segment, "SHM_DIR", str(tmp_path))
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_file_slightly_too_large_leaves_nothing_behind(tiny_shm):
    os.close(segment.create("fits", 48 << 10, mode=0o600, gid=-1))
    with pytest.raises(OSError, match="No space left on device"):
        segment.create("too-large", 32 << 10, mode=0o600, gid=-1)
    assert [path.name for path in tiny_shm.iterdir()] == ["fits"]
    os.close(segment.create("fits-too", 16 << 10, mode=0o600, gid=-1))


def test_a_ring_too_large_is_one_sentence(name):
    """It leaves nothing behind."""
    free = free_bytes()
    geometry = small_geometry(slots=(1 << 42) // 2560 // 16 * 16)
    with pytest.raises(StartError, match=rf"{name} needs {reserved_bytes(geometry)} bytes .* --shm-size"):
        RingMemory(make_descriptor(name, geometry), Access())
    assert leavings(name) == []
    assert free_bytes() >= free - (1 << 24)


def test_an_interrupted_ring_creation_leaves_nothing_behind(name, monkeypatch):
    def interrupted(*_: object, **__: object) -> Doorbell:
        raise KeyboardInterrupt

    monkeypatch.setattr(Doorbell, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RingMemory(make_descriptor(name, small_geometry()), Access())
    assert leavings(name) == []


def test_all_bytes_are_reserved_from_the_start(name):
    fd = segment.create(name, 1 << 20, mode=0o600, gid=-1)
    assert os.fstat(fd).st_blocks * 512 >= 1 << 20
    os.close(fd)


def test_a_name_that_is_taken_is_not_touched(name):
    segment.shm_path(name).write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        segment.create(name, 4096, mode=0o600, gid=-1)
    assert segment.shm_path(name).read_bytes() == b"somebody's"


def test_nothing_that_is_opened_is_truncated(name):
    os.close(segment.create(name, 3 * PAGE_BYTES, mode=0o600, gid=-1))
    segment.shm_path(name).write_bytes(b"x" * 3 * PAGE_BYTES)
    for fd in (segment.open_existing(name, writable=True), segment.open_lock(name)):
        segment.try_lock(fd, 0)
        view = segment.map_region(fd, 0, PAGE_BYTES, writable=True, twice=True)
        del view
        os.close(fd)
    assert segment.shm_path(name).read_bytes() == b"x" * 3 * PAGE_BYTES


def test_links_folders_and_public_files_are_refused(name, tmp_path):
    path = segment.shm_path(name)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotTrustedError, match="symbolic link"):
        segment.open_existing(name, writable=False)
    path.unlink()
    path.touch()
    path.chmod(0o602)
    with pytest.raises(NotTrustedError, match="mode 0602"):
        segment.open_existing(name, writable=False)
    path.unlink()
    path.mkdir()
    try:
        with pytest.raises(NotTrustedError, match="not a regular file"):
            segment.open_existing(name, writable=False)
    finally:
        path.rmdir()


# Mappings.


@given(pages=st.integers(1, 4), data=st.data())
def test_a_mirrored_block_that_wraps_is_contiguous(pages, data):
    name = unique_ring_name()
    length = pages * PAGE_BYTES
    fd = segment.create(name, length, mode=0o600, gid=-1)
    segment.shm_path(name).unlink()
    mirror = np.frombuffer(segment.map_region(fd, 0, length, writable=True, twice=True), np.uint8)
    os.close(fd)
    mirror[:length] = np.arange(length) % 251
    begin = data.draw(st.integers(0, length - 1))
    count = data.draw(st.integers(1, length))
    assert np.array_equal(mirror[begin : begin + count], (np.arange(begin, begin + count) % length) % 251)
    mirror[length + begin] = 255
    assert mirror[begin] == 255


def mappings(name: str) -> int:
    return Path("/proc/self/maps").read_text().count(name)


def test_a_mapping_lives_as_long_as_its_arrays(name):
    fd = segment.create(name, PAGE_BYTES, mode=0o600, gid=-1)
    array = np.frombuffer(segment.map_region(fd, 0, PAGE_BYTES, writable=False, twice=True), np.uint8)
    os.close(fd)
    view = array.reshape(2, -1)[1, 5:9]
    del array
    gc.collect()
    assert mappings(name) == 2
    assert view.tolist() == [0, 0, 0, 0]
    del view
    gc.collect()
    assert mappings(name) == 0


def test_a_read_only_mapping_cannot_be_written_through(name):
    fd = segment.create(name, PAGE_BYTES, mode=0o600, gid=-1)
    array = np.frombuffer(segment.map_region(fd, 0, PAGE_BYTES, writable=False, twice=False), np.uint8)
    os.close(fd)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)


def test_a_refused_mapping_leaves_no_address_space_behind(name):
    os.close(segment.create(name, 2 * PAGE_BYTES, mode=0o600, gid=-1))
    fd = os.open(segment.shm_path(name), os.O_RDONLY)
    before = Path("/proc/self/maps").read_text().count("\n")
    for _ in range(50):
        with pytest.raises(OSError, match="could not map"):
            segment.map_region(fd, 0, PAGE_BYTES, writable=True, twice=True)  # the file may only be read
    assert Path("/proc/self/maps").read_text().count("\n") < before + 25
    os.close(fd)


def test_arrays_that_outlive_the_interpreter_do_no_harm(name):
    code = f"""
import numpy as np, os
from ringfeed.shm import segment
fd = segment.create({name!r}, 4096, mode=0o600, gid=-1)
array = np.frombuffer(segment.map_region(fd, 0, 4096, writable=True, twice=True), np.uint8)
class AtTheEnd:
    def __del__(self): array[0] = 1
import builtins; builtins.kept = AtTheEnd()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# Locks.


@pytest.fixture
def lock_fd(name):
    os.close(segment.create(name, PAGE_BYTES, mode=0o600, gid=-1))
    fd = segment.open_lock(name)
    yield fd
    os.close(fd)


HOLDER = """
import os, sys
from ringfeed.shm import segment
fd = segment.open_lock(sys.argv[1])
assert segment.try_lock(fd, 3)
segment.close_in_children(fd)
if len(sys.argv) > 2 and os.fork() == 0:
    os.write(1, b"%d\\n" % os.getpid())  # whole, whatever the parent writes at this moment
    sys.stdin.read()  # the child outlives its parent
    os._exit(0)
os.write(1, b"locked\\n")
sys.stdin.read()
"""


def hold(name: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, name, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_holders_lock_is_free_at_once(name, lock_fd):
    with hold(name) as holder:
        assert holder.stdout.readline() == "locked\n"
        assert segment.is_locked(lock_fd, 3)
        assert not segment.is_locked(lock_fd, 2)
        assert not segment.try_lock(lock_fd, 3)
        holder.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has reaped it
        assert not segment.is_locked(lock_fd, 3)
        assert segment.try_lock(lock_fd, 3)


def test_a_fork_does_not_keep_its_parents_lock(name, lock_fd):
    with hold(name, "fork") as holder:
        lines = {holder.stdout.readline().strip(), holder.stdout.readline().strip()}
        (child,) = (int(line) for line in lines - {"locked"})
        assert segment.is_locked(lock_fd, 3)
        holder.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
        os.kill(child, 0)  # the child lives
        assert not segment.is_locked(lock_fd, 3)


def test_closing_another_descriptor_keeps_the_lock(name, lock_fd):
    assert segment.try_lock(lock_fd, 5)
    other = segment.open_lock(name)
    assert segment.is_locked(other, 5)
    os.close(segment.open_lock(name))
    assert segment.is_locked(other, 5)
    segment.unlock(lock_fd, 5)
    assert not segment.is_locked(other, 5)
    os.close(other)


# One daemon for a ring.


def test_a_second_daemon_waits_for_the_firsts_end(name):
    """It is refused until nothing of the first is left."""
    first = SingletonLock(name, Access())
    with pytest.raises(AlreadyRunningError, match="another daemon serves the ring"):
        SingletonLock(name, Access())
    first.release()
    second = SingletonLock(name, Access())
    second.release()
    assert leavings(name) == []


def test_a_start_clears_only_its_predecessors_files(name):
    """The predecessor is dead."""
    others = unique_ring_name()
    dead = RingMemory(make_descriptor(name, small_geometry()), Access())
    dead.announce()
    alive = RingMemory(make_descriptor(others, small_geometry()), Access())
    alive.announce()
    theirs = leavings(others)
    with pytest.raises(AlreadyRunningError, match="although its lock file was removed"):
        clear_leavings(name)
    os.close(dead._lock_fd)
    assert len(clear_leavings(name)) == 8
    assert leavings(name) == []
    assert leavings(others) == theirs
    alive.unlink()
    for fd in (alive._lock_fd, alive.data_fd, dead.data_fd):
        os.close(fd)


def test_a_planted_lock_is_a_sentence(name, tmp_path):
    """The segments stay."""
    lock = segment.shm_path(f"ringfeed.{name}.lock")
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match="symbolic link"):
        SingletonLock(name, Access())
    lock.unlink()
    segment.shm_path(f"ringfeed.{name}.{16 * '0'}.ctl").symlink_to(tmp_path / "elsewhere")
    assert clear_leavings(name) == []
    assert len(leavings(name)) == 1
