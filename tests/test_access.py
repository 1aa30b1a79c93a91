"""Who may attach: whom the files' modes let in, whose files a consumer believes, and that nothing here unpickles."""

from __future__ import annotations

import grp
import os
import re
import stat
import uuid
from pathlib import Path

import pytest
from house import SHM, Daemon, finish, traces, trainer, write_folder
from hypothesis import given
from hypothesis import strategies as st

from ringfeed import segment
from ringfeed.descriptor import read_descriptor
from ringfeed.errors import NotTrustedError

REPOSITORY = Path(__file__).parent.parent
NOBODY = 65534
GROUP = "daemon"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")


def facts(*, mode: int, uid: int, gid: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


FEW = st.integers(0, 4)


@given(bits=st.integers(0, 0o777), owner=FEW, group=FEW, uid=FEW, gids=st.sets(FEW))
def test_what_a_stranger_can_have_planted_is_not_believed_and_what_a_daemon_makes_for_us_is(
    bits, owner, group, uid, gids
):
    believed = segment.distrust(facts(mode=stat.S_IFREG | bits, uid=owner, gid=group), uid=uid, gids=gids) is None
    stranger = owner not in (0, uid) and group not in gids
    if bits & 0o007:
        assert not believed
    else:
        assert believed == (uid == 0 or not stranger)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFDIR, stat.S_IFSOCK, stat.S_IFBLK, stat.S_IFLNK])
def test_what_is_no_plain_file_is_not_believed_whoever_owns_it(kind):
    assert segment.distrust(facts(mode=kind | 0o600, uid=0, gid=0), uid=0, gids={0}) == "it is no plain file"


def test_a_descriptor_that_everybody_may_read_is_not_believed_and_its_owner_is_named():
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
import os, sys, ringfeed, ringfeed.reader, encodings.idna  # while the packages can be read
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


def test_without_a_group_every_file_is_its_users_alone(tmp_path):
    ring = f"t{uuid.uuid4().hex[:10]}"
    old = os.umask(0)
    try:
        with Daemon(str(write_folder(tmp_path, 8)), "--slots", "8", "--lanes", "2", ring=ring):
            assert modes(ring) == dict.fromkeys(("", ".lock", ".ctl", ".data", "sem..space", "sem..lane.N"), 0o600)
    finally:
        os.umask(old)


@as_root
def test_with_a_group_its_members_attach_and_others_are_told(tmp_path):
    ring, gid = f"t{uuid.uuid4().hex[:10]}", grp.getgrnam(GROUP).gr_gid
    with Daemon(str(write_folder(tmp_path, 8)), "--slots", "8", "--lanes", "2", "--group", GROUP, ring=ring):
        files = ("", ".lock", ".ctl", ".data", "sem..space", "sem..lane.N")
        assert modes(ring) == dict.fromkeys(files, 0o660) | {"": 0o640}
        assert {(SHM / name).stat().st_gid for name in traces(ring)} == {gid}
        assert attach_as_another_user(f"{ring}-train", gid) == "2"
        told = attach_as_another_user(f"{ring}-train")
        assert told.startswith(f"NotTrustedError The ring '{ring}-train' belongs to another user")


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
