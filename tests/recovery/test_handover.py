"""A clean restart by the service manager, which keeps for the next daemon where trainers stand that are busy then."""

import contextlib
import json
import os
import shutil
import signal

import pytest
from house import Daemon, traces, wait_until, wipe, write_folder
from manager import Manager

import ringfeed
from ringfeedd.errors import EXIT_CRASH
from ringfeedd.system.systemd import Notifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), 24)


@contextlib.contextmanager
def managed(tmp_path):
    manager = Manager(tmp_path / "notify")
    try:
        yield manager
    finally:
        manager.close()


def started(manager, daemon):
    """The daemon's process, once it is ready."""
    manager.start(daemon).output.wait_for("ready")
    return daemon.process


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
def test_a_busy_trainer_survives_a_clean_restart(folder, ring, tmp_path, kept):
    """While another one reads on."""
    daemon = Daemon(str(folder), "--size", "24x32", "--slots", "16", "--workers", "1", ring=ring)
    with managed(tmp_path) as manager:
        process = started(manager, daemon)
        with contextlib.ExitStack() as stack:
            busy, quick = (
                stack.enter_context(ringfeed.attach(f"{ring}-train", batch_size=2, group=group, drop_last=False))
                for group in ("busy", "quick")
            )
            ours = iter(busy)
            assert int(next(ours).positions[0]) == 0
            theirs = iter(quick)
            next(theirs)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert traces(ring) == [], "nothing is left in /dev/shm"
            manager.wait_heard()
            assert sorted(name.rpartition(".")[2] for name in manager.store) == ["ctl", "descriptor"]
            if not kept:
                manager.drop_all()
            process = started(manager, daemon)
            seen = [int(next(theirs).positions[0]) for _ in range(8)]
            assert seen == [2, 4, 6, 8, 10, 12, 14, 16]
            if kept:
                assert [int(batch.positions[0]) for batch in ours] == list(range(2, 24, 2))
                wait_until(lambda: not manager.store)
            else:
                assert [int(batch.positions[0]) for batch in theirs] == [18, 20, 22]
                with pytest.raises(ringfeed.AttachRefusedError, match="lies behind"):
                    list(ours)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        manager.wait_heard()
        assert not manager.store, "who has detached is not kept"
        assert traces(ring) == []


def test_a_killed_daemons_busy_trainer_reaches_the_next(folder, ring, tmp_path):
    """The trainer had not come to the daemon that was killed."""
    daemon = Daemon(str(folder), "--size", "24x32", "--slots", "16", "--workers", "1", ring=ring)
    with managed(tmp_path) as manager:
        process = started(manager, daemon)
        with ringfeed.attach(f"{ring}-train", batch_size=2, group="busy", drop_last=False) as busy:
            batches = iter(busy)
            next(batches)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            process = started(manager, daemon)
            process.kill()
            process.wait()
            process = started(manager, daemon)
            with ringfeed.attach(f"{ring}-train", batch_size=2, group="late", drop_last=False) as late:
                assert late.joined_at == (0, 2), "the ring stands where the busy one does"
            assert int(next(batches).positions[0]) == 2
            del batches
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_removed_files_cost_no_place_after_growth(ring, tmp_path):
    """The next daemon finds the readers in the manager's keeping, and serves the catalog that they read from."""
    folder, cache = write_folder(tmp_path / "set", 24), ("--catalog-cache", str(tmp_path / "cache"))
    daemon = Daemon(str(folder), "--size", "24x32", "--slots", "16", "--workers", "1", *cache, ring=ring)
    with managed(tmp_path) as manager:
        process = started(manager, daemon)
        with ringfeed.attach(f"{ring}-train", batch_size=2, group="busy", drop_last=False) as busy:
            batches = iter(busy)
            next(batches)
            for part in ("images", "labels"):
                pair = min((folder / part).rglob("*.*"))
                shutil.copyfile(pair, pair.with_stem("later"))
            wipe(ring)
            assert process.wait(60) == EXIT_CRASH
            process = started(manager, daemon)
            assert [int(batch.positions[0]) for batch in batches] == list(range(2, 24, 2))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert traces(ring) == []


def test_another_processs_descriptors_are_not_touched():
    told = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}
    assert Notifier.from_environ(told).stored == {}
    assert told == {}, "nor may a worker take them for its own"


def test_a_stored_descriptor_of_another_kind_is_skipped(folder, ring, tmp_path):
    daemon = Daemon(str(folder), "--size", "24x32", "--slots", "16", "--workers", "1", ring=ring)
    with managed(tmp_path) as manager:
        for kind, text in [("ctl", b"x"), ("descriptor", json.dumps({"ring": ring}).encode())]:
            fd = os.memfd_create("stranger")
            os.write(fd, text)
            manager.keep(f"{ring}.0123456789abcdef.{kind}", fd)
            os.close(fd)
        process = started(manager, daemon)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
