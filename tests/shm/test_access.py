"""Who may attach: whom the files' modes let in, whose files a consumer believes, and that nothing here unpickles."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import stat
import uuid
from pathlib import Path

import pytest
from house import SHM, Daemon, finish, traces, trainer, with_its_own_shm, write_folder
from hypothesis import given
from hypothesis import strategies as st
from ring_fixtures import served_ring

import ringfeed
from ringfeed.errors import NotTrustedError
from ringfeed.shm import access as trust
from ringfeed.shm.descriptor import read_descriptor
from ringfeedd.cli.doctor import examine
from ringfeedd.cli.main import main
from ringfeedd.errors import StartError
from ringfeedd.recovery.cleanup import clear_leavings
from ringfeedd.shm.lock import SingletonLock
from ringfeedd.shm.memory import Access

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
GROUP = "daemon"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def facts(*, mode: int, uid: int, gid: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


FEW = st.integers(0, 4)


@given(bits=st.integers(0, 0o777), owner=FEW, group=FEW, uid=FEW, gids=st.sets(FEW))
def test_only_files_no_stranger_can_plant_are_believed(bits, owner, group, uid, gids):
    file = facts(mode=stat.S_IFREG | bits, uid=owner, gid=group)
    believed = trust.distrust(file, uid=uid, gids=gids) is None
    shared = uid != 0 and group in gids
    assert believed == (not bits & 0o007 and (owner in (0, uid) or shared))
    assert (trust.distrust(file, uid=uid, gids=gids, trusted={owner}) is None) == (not bits & 0o007)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFDIR, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFLNK])
def test_only_a_plain_file_is_trusted(kind):
    """Whoever owns the others."""
    assert trust.distrust(facts(mode=kind | 0o600, uid=0, gid=0), uid=0, gids={0}) == "it is not a regular file"


def test_a_world_readable_descriptor_is_refused():
    """The error names its owner."""
    name = f"t{uuid.uuid4().hex[:10]}"
    path = SHM / f"ringfeed.{name}"
    path.write_bytes(b"{}")
    path.chmod(0o644)
    try:
        with pytest.raises(NotTrustedError, match=rf"mode 0644, owner {os.getuid()}, .*find out who made it"):
            read_descriptor(name)
    finally:
        path.unlink()


def modes(ring: str) -> dict[str, int]:
    """By a file's kind: its mode."""
    found = {}
    for name in traces(ring):
        kind = re.sub(rf"^(sem\.)?ringfeed\.{ring}-train(\.[0-9a-f]{{16}})?", r"\1", name)
        found[re.sub(r"\d+$", "N", kind)] = stat.S_IMODE((SHM / name).stat().st_mode)
    return found


AS_ANOTHER_USER = """
import os, sys, ringfeed, ringfeed.reader.reader, encodings.idna  # while the packages can be read
ring, uid, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups])
os.setresgid(int(uid), int(uid), int(uid))
os.setresuid(int(uid), int(uid), int(uid))
try:
    print(len(next(iter(ringfeed.attach(ring, batch_size=2)))))
except ringfeed.RingfeedError as error:
    print(type(error).__name__, error)
"""


def attach_as_another_user(ring: str, *groups: int) -> str:
    return finish(trainer(AS_ANOTHER_USER, ring, NOBODY, *groups)).strip()


def test_without_a_group_files_are_the_users_alone(tmp_path):
    ring = f"t{uuid.uuid4().hex[:10]}"
    old = os.umask(0)
    try:
        with Daemon(str(write_folder(tmp_path, 8)), "--slots", "8", "--lanes", "2", ring=ring):
            assert modes(ring) == dict.fromkeys(("", ".lock", ".ctl", ".data", "sem..space", "sem..lane.N"), 0o600)
    finally:
        os.umask(old)


@as_root
def test_with_a_group_members_attach_and_others_learn(tmp_path):
    """Others are told why they cannot."""
    ring, gid = f"t{uuid.uuid4().hex[:10]}", grp.getgrnam(GROUP).gr_gid
    with Daemon(str(write_folder(tmp_path, 8)), "--slots", "8", "--lanes", "2", "--group", GROUP, ring=ring):
        files = ("", ".lock", ".ctl", ".data", "sem..space", "sem..lane.N")
        assert modes(ring) == dict.fromkeys(files, 0o660) | {"": 0o640, ".data": 0o640, ".lock": 0o600}
        assert {(SHM / name).stat().st_gid for name in traces(ring)} == {gid}
        assert attach_as_another_user(f"{ring}-train", gid) == "2"
        (pixels,) = SHM.glob(f"ringfeed.{ring}-train.*.data")
        for path in (pixels, SHM / f"ringfeed.{ring}-train.lock"):
            assert "PermissionError" in write_as_another_user(path, gid)
        told = attach_as_another_user(f"{ring}-train")
        assert told.startswith(f"NotTrustedError The ring '{ring}-train' belongs to another user")


WRITES = """
import os, sys
path, uid, gid = sys.argv[1:]
os.setgroups([int(gid)])
os.setresgid(int(uid), int(uid), int(uid))
os.setresuid(int(uid), int(uid), int(uid))
try: os.open(path, os.O_RDWR)
except OSError as error: print(type(error).__name__)
else: print("opened")
"""


def write_as_another_user(path: Path, gid: int) -> str:
    """What comes of a member's attempt to open a file of the ring for writing."""
    return finish(trainer(WRITES, path, NOBODY, gid))


# Other users, for real.

SERVE_AS_NOBODY = """
import os, sys, time
from ring_fixtures import served_ring, turning
import ringfeed.shm.failures
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
with served_ring(name=sys.argv[1]) as served, turning(served):
    print("serving", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def ring_of_nobody(ring):
    process = trainer(SERVE_AS_NOBODY, ring)
    try:
        assert process.stdout.readline() == "serving\n", process.communicate()
        yield
    finally:
        process.communicate("end\n", timeout=20)


@as_root
def test_root_believes_only_users_that_are_configured(ring, monkeypatch, capsys):
    with ring_of_nobody(ring):
        path = SHM / f"ringfeed.{ring}"
        with pytest.raises(
            NotTrustedError,
            match=rf"{path} \(mode 0600, owner {NOBODY}, .*root trusts only its own, .* run this as its owner",
        ):
            ringfeed.attach(ring, batch_size=2)
        for command in ("status", "refresh", "errors"):
            assert main([command, ring]) == 3
            assert f"{path} (mode 0600, owner {NOBODY}" in capsys.readouterr().err
        monkeypatch.setenv(trust.USERS_VARIABLE, "no-such-user, nobody")
        assert main(["status", ring]) == 0
        with ringfeed.attach(ring, batch_size=2) as reader:
            assert len(next(iter(reader))) == 2
        with pytest.raises(StartError, match=rf"{path} .*owner {NOBODY}.* belongs to another user"):
            clear_leavings(ring)
        (leftovers,) = (check for check in examine({}) if check.topic == "leftovers")
        assert ring not in leftovers.found  # nobody can tell whether its daemon is dead
    assert traces(ring) == []


@as_root
def test_trusted_users_count_only_where_root_writes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "SERVICE_USER", "no-such-user")
    file = tmp_path / "trusted-users"
    file.write_text("# the daemon's\nnobody\n4711 # a number\n\nno-such-user\n")
    assert trust.trusted_uids({}, file) == {NOBODY, 4711}
    assert trust.trusted_uids({trust.USERS_VARIABLE: "12"}, tmp_path / "none") == {12}
    for mode, uid in ((0o664, 0), (0o646, 0), (0o644, NOBODY)):
        file.chmod(mode)
        os.chown(file, uid, 0)
        assert trust.trusted_uids({}, file) == set()


@pytest.mark.parametrize(("uid", "believed"), [(999, True), (1000, False)])
def test_the_services_user_is_trusted_if_a_systems(uid, believed, monkeypatch, tmp_path):
    user = pwd.struct_passwd(("ringfeed", "x", uid, uid, "", "/", ""))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"ringfeed": user}[name])
    assert (uid in trust.trusted_uids({}, tmp_path / "none")) == believed


@as_root
def test_roots_daemon_refuses_another_users_lock_file(ring, monkeypatch):
    path = SHM / f"ringfeed.{ring}.lock"
    path.touch(0o600)
    os.chown(path, NOBODY, NOBODY)
    for trusted in ("", "nobody"):
        monkeypatch.setenv(trust.USERS_VARIABLE, trusted)
        with pytest.raises(StartError, match=rf"{path} \(mode 0600, owner {NOBODY}"):
            SingletonLock(ring, Access())
    assert path.exists()


@as_root
def test_errors_claims_nothing_to_a_stranger():
    as_nobody = "import os, sys\nfrom ringfeedd.cli.main import main\nos.setgroups([])\nos.setresuid(*[65534] * 3)\n"
    with served_ring() as served:
        for options in ([], ["--json"]):
            asked = trainer(as_nobody + "sys.exit(main(['errors', *sys.argv[1:]]))", served.name, *options)
            said = asked.communicate(timeout=20)[0]
            assert asked.returncode == 3
            assert "no pair has failed" not in said
            assert f"/dev/shm/ringfeed.{served.name} (mode 0600, owner 0, group 0) is closed to this user" in said


LOOK = """
import sys, ringfeed
from ringfeedd.cli.main import main
try:
    ringfeed.attach(sys.argv[1], batch_size=2)
except ringfeed.NoAccessError as error:
    print(error)
print([main([*command, sys.argv[1]]) for command in (["status"], ["top", "--count", "1"], ["errors"])])
main(["doctor"])
"""

READ_ONLY = """
import subprocess, sys
from ring_fixtures import served_ring, turning
mount = "mount --bind /dev/shm /dev/shm && mount -o remount,bind,ro /dev/shm && exec \\"$@\\""
with served_ring() as served, turning(served):
    look = [sys.executable, "-c", sys.argv[1], served.name]
    subprocess.run(["unshare", "--mount", "sh", "-c", mount, "sh", *look], check=True)
"""


def test_read_only_shared_memory_is_a_readers_sentence():
    said = with_its_own_shm("size=16m", READ_ONLY, LOOK)
    assert re.search(r"/dev/shm/ringfeed\S+ \(mode 0600, .*\) is on a read-only file system here, and a reader", said)
    assert said.count(": serving") == 2
    assert "no pair has failed" in said
    assert "[0, 0, 0]" in said
    assert re.search(r"ok +ring \S+ +serves", said)
    assert "/dev/shm is mounted read-only" in said


def test_nothing_here_unpickles_or_evaluates_what_it_read():
    forbidden = re.compile(
        r"\b(?:import|from) (?:c?[Pp]ickle|marshal|shelve|dill|cloudpickle)\b|(?<![.\w])(?:eval|exec)\("
    )
    allowed = re.compile(r"allow_pickle=False")
    for package in ("consumer/ringfeed", "daemon/ringfeedd"):
        for path in (REPOSITORY / package).rglob("*.py"):
            text = allowed.sub("", path.read_text())
            assert not forbidden.search(text), path
            assert "allow_pickle" not in text, path
            assert not re.search(r"multiprocessing\.(Pipe|Queue|Manager|connection)", text), path
            assert "torch.load(" not in text, path
