"""The descriptor: what is written is read, and what cannot be a daemon's is not believed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_fixtures import described_as, make_descriptor, small_geometry, unique_ring_name

from ringfeed.errors import DaemonNotRunningError, NotTrustedError, OtherVersionError
from ringfeed.shm import layout, segment
from ringfeed.shm.descriptor import (
    Descriptor,
    check_ring_name,
    read_descriptor,
    remove_descriptor,
    ring_names,
    write_descriptor,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)

ACCEPTED = {("test_ratio", int), ("emulator", str), ("emulator", type(None))}
"""Keys that take values of more than one type."""


@pytest.fixture
def name():
    name = unique_ring_name()
    yield name
    segment.shm_path(layout.descriptor_name(name)).unlink(missing_ok=True)


def plant(name: str, text: bytes, mode: int = 0o600) -> None:
    path = segment.shm_path(layout.descriptor_name(name))
    path.write_bytes(text)
    path.chmod(mode)


@given(
    root=st.text(max_size=40),
    seed=st.integers(0, 2**64 - 1),
    slots=st.integers(1, 9000),
    lanes=st.integers(1, layout.MAX_LANES),
    pid=st.integers(1, 2**22),
    test_ratio=st.floats(0, 0.99),
)
def test_what_is_written_is_read(root, seed, slots, lanes, pid, test_ratio):
    descriptor = described_as(
        make_descriptor("train", small_geometry(slots, lanes)), root=root, seed=seed, pid=pid, test_ratio=test_ratio
    )
    assert Descriptor.from_json("train", descriptor.to_json()) == descriptor


def test_a_ring_is_found_until_its_descriptor_goes(name):
    descriptor = make_descriptor(name, small_geometry())
    written = write_descriptor(descriptor, mode=0o600, gid=-1)
    assert read_descriptor(name) == descriptor
    assert name in ring_names()
    remove_descriptor(name, written)
    assert name not in ring_names()
    with pytest.raises(DaemonNotRunningError, match=f"No daemon serves the ring '{name}'"):
        read_descriptor(name)


def test_a_successors_descriptor_survives_its_predecessor(name):
    """It replaces the old one, whose owner does not remove it."""
    old = make_descriptor(name, small_geometry())
    new = replace(old, generation="fedcba9876543210")
    written = write_descriptor(old, mode=0o600, gid=-1)
    write_descriptor(new, mode=0o600, gid=-1)
    remove_descriptor(name, written)
    assert read_descriptor(name) == new


def test_an_unwritable_descriptor_leaves_nothing_behind(name, monkeypatch):
    def full(_: Descriptor) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Descriptor, "to_json", full)
    with pytest.raises(OSError, match="No space left"):
        write_descriptor(make_descriptor(name, small_geometry()), mode=0o600, gid=-1)
    assert not list(Path("/dev/shm").glob(f"*{name}*"))


@given(garbage=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_not_believed(garbage):
    with pytest.raises(NotTrustedError):
        Descriptor.from_json("train", garbage)


def test_a_text_nested_too_deeply_is_not_believed():
    with pytest.raises(NotTrustedError):
        Descriptor.from_json("train", b"[" * 200_000)


@given(data=st.data(), junk=JSON)
def test_a_descriptor_value_of_another_type_is_refused(data, junk):
    facts = json.loads(make_descriptor("train", small_geometry()).to_json())
    where = data.draw(
        st.sampled_from(
            [facts, facts["identity"], facts["geometry"], facts["geometry"]["image"], facts["geometry"]["label"]]
        )
    )
    key = data.draw(st.sampled_from(sorted(where)))
    before, where[key] = where[key], junk
    if type(before) is type(junk) or key == "name" or (key, type(junk)) in ACCEPTED:
        return  # it may be another good value, or is the key's again
    with pytest.raises(NotTrustedError):
        Descriptor.from_json("train", json.dumps(facts).encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("image", "offset"), 4096),
        (("label", "offset"), 1 << 40),
        (("label", "offset"), 1),
        (("label", "dtype"), "float64"),
        (("image", "row_shape"), [0, 0, 3]),
        (("image", "row_shape"), [1 << 40, 1 << 40, 3]),
        (("slots",), 0),
        (("slots",), -16),
        (("slots",), 17),
        (("lanes",), layout.MAX_LANES + 1),
        (("lanes",), True),
    ],
)
def test_a_geometry_beyond_its_segments_is_refused(path, value):
    facts = json.loads(make_descriptor("train", small_geometry()).to_json())
    where = facts["geometry"]
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    with pytest.raises(NotTrustedError, match="is not a ring's descriptor"):
        Descriptor.from_json("train", json.dumps(facts).encode())


def test_another_layout_version_is_no_garbage():
    """It is told apart whatever else the file holds."""
    with pytest.raises(OtherVersionError, match="has layout version 4, this process has version 3"):
        Descriptor.from_json("train", b'{"layout_version": 4, "unheard": "of"}')


def test_an_unknown_key_is_refused():
    facts = json.loads(make_descriptor("train", small_geometry()).to_json()) | {"colour": "red"}
    with pytest.raises(NotTrustedError, match="colour"):
        Descriptor.from_json("train", json.dumps(facts).encode())


def test_a_descriptor_of_another_ring_is_not_believed(name):
    plant(name, make_descriptor("other", small_geometry()).to_json())
    with pytest.raises(NotTrustedError, match="describes another ring, 'other'"):
        read_descriptor(name)


def test_a_generation_that_leads_elsewhere_is_refused():
    descriptor = replace(make_descriptor("train", small_geometry()), generation="../../../etc/pas")
    with pytest.raises(NotTrustedError):
        Descriptor.from_json("train", descriptor.to_json())


def test_a_planted_symbolic_link_is_not_followed(name, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(make_descriptor(name, small_geometry()).to_json())
    segment.shm_path(layout.descriptor_name(name)).symlink_to(target)
    with pytest.raises(NotTrustedError, match="is a symbolic link"):
        read_descriptor(name)


def test_a_file_writable_by_others_is_refused(name):
    plant(name, make_descriptor(name, small_geometry()).to_json(), mode=0o666)
    with pytest.raises(NotTrustedError, match="any user may open it"):
        read_descriptor(name)


@pytest.mark.parametrize("bad", ["", "a/b", "a.b", "../x", "x" * 65, "train\n", "größe", "a b"])
def test_a_name_leading_to_another_file_is_refused(bad):
    with pytest.raises(ValueError, match="cannot be a ring's name"):
        check_ring_name(bad)
